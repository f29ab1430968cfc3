// How long certificates take: the model's measured rate, corrected by how long they took here before.

import { duration } from "./numbers.js";

const KEY = "spacte-pace:"; // of each model
const FIXED_S = 0.2; // chosen: the way there and back, decoding, the first look
const NEWEST = 0.7; // weight of the latest proof
const [LEAST, MOST] = [0.1, 10];

const pace = (model) => Number(sessionStorage.getItem(KEY + model.name)) || 1;
const plain = (rate, noises) => FIXED_S + noises / rate;

/** Seconds for so many certificates of `n` noises at most; null where the model has no rate. */
export function secondsOf(model, n, images = 1, n0 = 100) {
  const rate = model?.samples_per_second;
  return rate ? pace(model) * plain(rate, images * (n + n0)) : null;
}

/** What is told before: of short times the way there and back is most, so that no more is known of them. */
export const estimate = (seconds) => (seconds < 1.5 ? "a second or two" : duration(seconds));

/** A proof of so many noises took this long, with a model of this rate when it began. */
export function learnPace(model, noises, seconds) {
  const rate = model?.samples_per_second;
  if (!rate) return;
  const seen = Math.min(MOST, Math.max(LEAST, seconds / plain(rate, noises)));
  sessionStorage.setItem(KEY + model.name, String(pace(model) ** (1 - NEWEST) * seen ** NEWEST));
}
