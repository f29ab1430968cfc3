// The largest radius that n noises can prove, for drawing the limit line; the service computes the real bounds.

/** P(N(0, 1) > x) for x >= 0: the Maclaurin series near zero, Laplace's continued fraction further out. */
function upperTail(x) {
  const density = Math.exp(-x * x / 2) / Math.sqrt(2 * Math.PI);
  if (x < 2) {
    let term = x;
    let sum = x;
    for (let k = 1; Math.abs(term) > 1e-17; k++) {
      term *= (x * x) / (2 * k + 1);
      sum += term;
    }
    return 0.5 - density * sum;
  }
  let fraction = x;
  for (let k = 60; k >= 1; k--) fraction = x + k / fraction;
  return density / fraction;
}

/** x with P(N(0, 1) > x) = q, for 0 < q <= 1/2, by bisection. */
function upperQuantile(q) {
  let low = 0;
  let high = 12;
  for (let i = 0; i < 60; i++) {
    const middle = (low + high) / 2;
    if (upperTail(middle) > q) low = middle;
    else high = middle;
  }
  return low;
}

/** sigma * Phi^-1(alpha^(1/n)): the radius when all n votes agree (Clopper-Pearson). */
function radiusLimit(sigma, n, alpha) {
  const q = -Math.expm1(Math.log(alpha) / n);
  return q >= 0.5 ? 0 : sigma * upperQuantile(q);
}

/** The largest radius that a request can prove: all votes agree. */
export function limitOf(model, { n, alpha, target_radius }) {
  // A request that may stop early spends half of alpha on its last look.
  return radiusLimit(model.sigmas[0], n, target_radius ? alpha / 2 : alpha);
}
