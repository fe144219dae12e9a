function showSummary(report) {
  const counts = report.tables[0].rows.filter((row) => row.kind === "explainer").length;
  const parts = [`${counts} explainers`, `${report.tables[0].samples} samples`, `${report.gallery.length} to browse`];
  const link = html("a", { href: "#provenance" }, "protocol and provenance");
  document.title = report.title;
  document.querySelector("h1").append(report.title);
  document.getElementById("summary").append(parts.join(" · "), " · ", link);
}

function showProvenance(host, report) {
  const facts = Object.entries(report.facts).flatMap(([name, value]) => [html("dt", {}, name), html("dd", {}, value)]);
  host.append(html("h2", {}, "Protocol and provenance"), html("dl", {}, facts));
}

const report = JSON.parse(document.getElementById("data").textContent);
showSummary(report);
showFigures(document.getElementById("figures"), report);
showFurther(document.getElementById("further"), report);
showCurves(document.getElementById("curves"), report);
showGallery(document.getElementById("samples"), report);
showProvenance(document.getElementById("provenance"), report);
