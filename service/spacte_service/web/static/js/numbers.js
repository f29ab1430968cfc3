// Numbers as people read them.

/**
 * A radius with so many decimals, rounded down: a shown radius must not be larger than the proven one.
 * Radii come with six decimals, whose text is cut here, since 0.3 * 10 in binary is not 3.
 */
export function radiusText(radius, digits) {
  const [ones, decimals] = radius.toFixed(6).split(".");
  return `${ones}.${decimals.slice(0, digits)}`;
}

/** A whole number, its thousands apart. */
export const whole = (x) => Math.round(x).toLocaleString("en");

export const percent = (x) => `${(100 * x).toFixed(1)} %`;

const UNITS = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];

/** About how long: "under a second", "about 4 s", "about 3 min". */
export function duration(seconds) {
  if (seconds < 1) return "under a second";
  const [unit, size] = UNITS.find(([, length]) => seconds >= length * (length === 1 ? 1 : 1.5)) ?? UNITS.at(-1);
  const count = seconds / size;
  return `about ${count < 9.5 && unit !== "s" ? +count.toFixed(1) : whole(count)} ${unit}`;
}

