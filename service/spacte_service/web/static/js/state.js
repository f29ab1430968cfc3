// What the page at / is about: the model, the image and the latest proof.

export const state = { models: [], model: null, file: null, values: null, proof: null, abort: null };
