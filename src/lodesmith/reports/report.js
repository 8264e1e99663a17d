"use strict";
// The page is complete without this: it turns the fold of other pairs into a selector, and names the query under the pointer.
(() => {
  const box = document.getElementById("pairs");
  const source = document.getElementById("data");
  if (!box || !source) return;
  const { measure, datasets } = JSON.parse(source.textContent);
  const figures = [...box.querySelectorAll("figure")];

  const select = () => {
    const fold = box.querySelector("details.others");
    if (!fold) return;
    const choice = document.createElement("select");
    const label = document.createElement("label");
    label.className = "choice";
    figures.forEach((figure, i) => {
      const { a, b, dataset } = figure.dataset;
      const where = Object.keys(datasets).length > 1 ? ` · ${dataset}` : "";
      choice.add(new Option(`${a} − ${b}${where}`, i));
      box.append(figure);
    });
    fold.remove();
    const show = () => figures.forEach((figure, i) => { figure.hidden = i !== Number(choice.value); });
    choice.addEventListener("change", show);
    label.append("Pair ", choice);
    box.prepend(label);
    show();
  };

  const sorted = ({ a, b, dataset }) => {
    const block = datasets[dataset];
    if (!block || !block.systems[a] || !block.systems[b]) return [];
    return block.queries
      .map((query, i) => ({ query, a: block.systems[a][i], b: block.systems[b][i] }))
      .filter((row) => row.a !== null && row.b !== null)
      .sort((x, y) => (y.a - y.b) - (x.a - x.b));
  };

  const read = (figure) => {
    const rows = sorted(figure.dataset);
    if (!rows.length) return;
    const output = document.createElement("output");
    const idle = "Point at a bar, or tap it, to see its query.";
    output.textContent = idle;
    figure.append(output);
    figure.querySelectorAll("svg").forEach((plot) => {
      const { left, right } = plot.dataset;
      const name = (event) => {
        const shape = plot.getBoundingClientRect();
        const x = (event.clientX - shape.left) / shape.width * plot.viewBox.baseVal.width;
        const place = Math.floor((x - left) / (right - left) * rows.length);
        const row = rows[Math.min(Math.max(place, 0), rows.length - 1)];
        output.textContent = `Query ${row.query}: ${measure} ${row.a.toFixed(3)} against ${row.b.toFixed(3)}`;
      };
      plot.addEventListener("pointermove", name);
      plot.addEventListener("pointerdown", name);
      plot.addEventListener("pointerleave", (event) => {
        if (event.pointerType === "mouse") output.textContent = idle;
      });
    });
  };

  figures.forEach(read);
  select();
})();
