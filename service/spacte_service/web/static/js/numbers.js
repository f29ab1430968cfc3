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
