// Relevance as xai/render.py draws it: colour is the share of the largest score of a sample's modality.

const LUMINANCE = [0.2126, 0.7152, 0.0722];
const FADE = 0.7; // what the model did not see is so much paler
const DARK = 0.45; // words on colours below this luminance are white

/** A function from a share, -1 to 1, to a colour [r, g, b] that covers the ground by a part: { colour, cover }. */
function heatScale({ colours, cover }) {
  const middle = (colours.length - 1) / 2;
  const colourOf = (share) => {
    const place = middle * (1 + share);
    const below = Math.min(Math.floor(place), colours.length - 2);
    return colours[below].map((value, i) => value + (place - below) * (colours[below + 1][i] - value));
  };
  return (share) => ({
    colour: colourOf(Math.sign(share) * (0.5 + 0.5 * Math.abs(share))),
    cover: cover * Math.abs(share) ** 0.7,
  });
}

function luminance(colour) {
  return LUMINANCE.reduce((sum, weight, i) => sum + weight * colour[i], 0);
}

function largest(values) {
  return Math.max(0, ...values.map(Math.abs)) || 1;
}

/** Draws a grey image with the patches' heat on `canvas`, pixel by pixel of the image. */
function paintHeat(canvas, image, patches, [left, top, width, height], heat, light) {
  const [columns, rows] = [image.naturalWidth, image.naturalHeight];
  Object.assign(canvas, { width: columns, height: rows });
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, columns, rows);
  const across = Array.from({ length: columns }, (_, i) => placeOf(i, columns, left, width, patches[0].length));
  const down = Array.from({ length: rows }, (_, i) => placeOf(i, rows, top, height, patches.length));
  const most = largest(patches.flat());
  for (let row = 0, at = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, at += 4) {
      const share = sampled(patches, down[row], across[column]);
      shade(pixels.data, at, share === null ? null : heat(share / most), light);
    }
  }
  context.putImageData(pixels, 0, 0);
}

/** Between which two patches a pixel's centre lies and how far: [first, second, share]; null outside of all. */
function placeOf(pixel, pixels, start, size, cells) {
  const position = (((pixel + 0.5) / pixels - start) / size) * cells;
  if (position < 0 || position >= cells) return null;
  const inner = Math.min(Math.max(position - 0.5, 0), cells - 1);
  const first = Math.floor(inner);
  return [first, Math.min(first + 1, cells - 1), inner - first];
}

/** Bilinear between the centres of patches. */
function sampled(patches, down, across) {
  if (down === null || across === null) return null;
  const along = (row) => row[across[0]] * (1 - across[2]) + row[across[1]] * across[2];
  return along(patches[down[0]]) * (1 - down[2]) + along(patches[down[1]]) * down[2];
}

function shade(data, at, heated, light) {
  const ground = 255 * light + (1 - light) * luminance(data.subarray(at, at + 3));
  for (let i = 0; i < 3; i++) {
    data[at + i] = heated === null
      ? (1 - FADE) * ground + FADE * 255
      : (1 - heated.cover) * ground + heated.cover * heated.colour[i];
  }
}

/** Gives words, as spans, the colour of their scores. */
function colourWords(spans, scores, heat) {
  const most = largest(scores);
  spans.forEach((span, i) => colourWord(span, scores[i], heat(scores[i] / most)));
}

function colourWord(span, score, { colour, cover }) {
  const onWhite = luminance(colour.map((value) => (1 - cover) * 255 + cover * value));
  span.title = `${span.textContent}: ${String(score).replace("-", "−")}`;
  span.classList.toggle("strong", onWhite < DARK * 255);
  span.style.setProperty("--heat", `rgb(${colour.map(Math.round).join(" ")} / ${cover.toFixed(3)})`);
}

/** The colours in use, with what their ends mean. */
function heatLegend(signed, heat, target) {
  const strip = html("canvas", { width: 120, height: 1, class: "strip" });
  const context = strip.getContext("2d");
  for (let x = 0; x < 120; x++) {
    const { colour, cover } = heat(signed ? x / 59.5 - 1 : x / 119);
    context.fillStyle = `rgb(${colour.map(Math.round).join(" ")} / ${cover})`;
    context.fillRect(x, 0, 1, 1);
  }
  const [low, high] = signed ? ["against", `for the ${target}`] : ["none", "most relevant"];
  return html("span", { class: "scale" }, low, strip, high);
}
