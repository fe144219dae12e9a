// The words of a caption: whoever points at one sees what it was written for; else the whole caption's relevance is shown.

const BESIDE = { ArrowLeft: "previousElementSibling", ArrowRight: "nextElementSibling" };

/** A function that makes a span of a word and its place; `show` gets the place pointed at by pointer, focus or tap, or null. */
function pointableWords(show) {
  const at = { pointer: null, focus: null };
  const set = (by, place) => () => {
    at[by] = place;
    show(at.pointer ?? at.focus);
  };
  return (word, place, tabindex) => html("span", {
    tabindex, class: "pointable",
    onpointerenter: set("pointer", place), onpointerleave: set("pointer", null),
    onfocus: set("focus", place), onblur: set("focus", null), onkeydown: toWordBeside,
  }, word);
}

/** Left and right go from word to word, not from sample to sample. */
function toWordBeside(event) {
  if (!(event.key in BESIDE)) return;
  event.preventDefault();
  event.stopPropagation();
  event.currentTarget[BESIDE[event.key]]?.focus();
}

/** The words of the sample's caption; none where there is no map for each word. */
function captionOf(sample) {
  const found = Object.values(sample.explanations).find(({ steps }) => steps.length);
  return found ? found.words.map(([word]) => word) : [];
}

function markPointed(spans, place) {
  spans.forEach((span, i) => span.classList.toggle("pointed", i === place));
}

/** Spans with spaces between. */
function spaced(spans) {
  return spans.flatMap((span) => [span, " "]);
}
