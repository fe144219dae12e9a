// What a model wrote, word by word: whoever points at a word sees its map over images, prompt and the words before it.

const NAMES = { image: "image", prompt: "prompt", text: "words before" };

function showCaption({ words, prompt, images, maps, whole }, heat, light) {
  const shows = []; // what each part does when the word of a place is pointed at, or none
  const pointable = pointableWords((place) => shows.forEach((show) => show(place === null ? whole : maps[place], place)));
  const spans = words.map(({ word }, i) => pointable(word, i, 0));
  const given = prompt.map(({ word }) => html("span", {}, word));
  shows.push((map, place) => {
    markPointed(spans, place);
    colourWords(spans, map.text, heat);
    colourWords(given, map.prompt, heat);
  });
  const shares = html("p", { class: "shares soft" });
  shows.push((map) => shares.replaceChildren(...shareParts(map.shares)));
  const plain = images.filter((image) => image.known).map(({ name, source }) =>
    html("figure", { class: "card" }, html("figcaption", {}, name), html("div", { class: "picture" }, html("img", { src: source, alt: "" }))));
  const cards = images.map((image, i) => imageCard(image, (map) => map.images[i], heat, light, shows));
  const article = html("article", { class: "caption" },
    html("h3", { class: "words" }, withBlanks(spans, words)),
    shares,
    html("div", { class: "cards" }, plain, cards),
    given.length > 0 && html("p", { class: "words given" }, html("b", { class: "soft" }, "prompt: "), withBlanks(given, prompt)));
  shows.forEach((show) => show(whole, null));
  return article;
}

function imageCard({ name, source, window }, mapOf, heat, light, shows) {
  const image = html("img", { src: source, alt: "" });
  const canvas = html("canvas", { role: "img", "aria-label": `relevance of ${name}` });
  const decoded = image.decode();
  shows.push((map) => decoded.then(() => paintHeat(canvas, image, mapOf(map), window, heat, light)));
  return html("figure", { class: "card" }, html("figcaption", {}, `relevance of ${name}`), html("div", { class: "picture" }, image, canvas));
}

/** How much of the positive relevance each part has; nothing where there is none. */
function shareParts(shares) {
  return Object.entries(shares).filter(([, share]) => share !== null).map(([name, share]) => {
    const percent = Math.round(100 * share);
    const inner = html("span", {});
    inner.style.setProperty("--share", `${percent}%`);
    return html("span", { class: "share" }, `${NAMES[name] ?? name} ${percent} %`, html("span", { class: "gauge", "aria-hidden": "true" }, inner));
  });
}

/** Spans, with blanks where the text has them. */
function withBlanks(spans, words) {
  return spans.flatMap((span, i) => (words[i].blank ? [" ", span] : [span]));
}

const values = JSON.parse(document.getElementById("data").textContent);
const scale = heatScale(values.heat);
document.title = values.title;
document.querySelector("h1").append(values.title);
document.documentElement.style.setProperty("--opacity", 1);
document.getElementById("summary").append(`${values.method}. Point at a word to see its map; else the whole text's is shown. `, heatLegend(values.signed, scale, "word"));
document.querySelector("main").append(...values.captions.map((caption) => showCaption(caption, scale, values.heat.light)));
