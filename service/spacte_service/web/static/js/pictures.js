// Pixels: show a file, move it by an exact L2 distance, add noise to it.

/** Decode an image file to show it: its `size`, and `values` 0..255 of the model's [channels, height, width], scaled and
 * cropped about as the service does where it is asked to; null where a browser cannot (npy). */
export async function pixels(file, [channels, height, width]) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return null;
  }
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  const scale = Math.max(width / bitmap.width, height / bitmap.height);
  const [w, h] = [bitmap.width * scale, bitmap.height * scale];
  context.drawImage(bitmap, (width - w) / 2, (height - h) / 2, w, h);
  const { data } = context.getImageData(0, 0, width, height);
  const values = new Float64Array(channels * height * width);
  for (let c = 0; c < channels; c++) {
    for (let i = 0; i < height * width; i++) {
      values[c * height * width + i] =
        channels === 1 ? (data[4 * i] + data[4 * i + 1] + data[4 * i + 2]) / 3 : data[4 * i + c];
    }
  }
  return { values, size: [bitmap.width, bitmap.height] };
}

/** Paint [channels, height, width] values onto a canvas of any size, without smoothing. */
export function paint(canvas, values, [channels, height, width]) {
  const image = new ImageData(width, height);
  for (let i = 0; i < height * width; i++) {
    for (let c = 0; c < 3; c++) {
      image.data[4 * i + c] = values[(channels === 1 ? 0 : c) * height * width + i];
    }
    image.data[4 * i + 3] = 255;
  }
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d").putImageData(image, 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

/** An npy file of the values as uint8: a canvas would make a PNG with colours, which a grey model refuses. */
export function npy(values, shape) {
  const text = `{'descr': '|u1', 'fortran_order': False, 'shape': (${shape.join(", ")}), }`;
  const header = `${text.padEnd(128 - 10 - 1)}\n`;
  const start = new Uint8Array([0x93, ...new TextEncoder().encode("NUMPY"), 1, 0, header.length, 0]);
  return new Blob([start, header, new Uint8Array(values.map(Math.round))], { type: "application/octet-stream" });
}

function normals(count) {
  const out = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    out[i] = Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  }
  return out;
}

/** The image moved in a random direction by exactly `radius` in L2, pixels scaled to [0, 1]. */
export function moved(values, radius) {
  const direction = normals(values.length);
  const norm = Math.hypot(...direction);
  return values.map((value, i) => value + (255 * radius * direction[i]) / norm);
}

/** A copy with Gaussian noise of sd sigma on the 8-bit grid, as the model sees thousands of. */
export function noisy(values, sigma) {
  const noise = normals(values.length);
  return values.map((value, i) => value + Math.round(255 * sigma * noise[i]));
}
