"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const files = JSON.parse(document.getElementById("files").textContent);
  const options = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };

  // What only the browser knows: how high the legend is at this width, and whether a number fits into a cell.
  const fit = async (chart) => {
    const figure = figures[chart.id];
    const size = chart._fullLayout._size;
    const meta = figure.layout.meta || {};
    const update = { "margin.b": figure.layout.margin.b, height: figure.layout.height };
    const legend = chart.querySelector(".legend .bg");
    if (legend) {
      const taken = Math.ceil(legend.getBBox().height) + 6;
      update["margin.b"] += taken;
      update.height += taken;
    }
    if (meta.aspect) update.height = Math.round(Math.min(meta.most, size.w * meta.aspect)) + size.t + size.b;
    const columns = figure.data[0].texttemplate ? figure.data[0].z.shape : "";
    if (columns) {
      const template = size.w / Number(columns.split(",")[1]) < 27 ? "" : figure.data[0].texttemplate;
      if (chart.data[0].texttemplate !== template) await Plotly.restyle(chart, { texttemplate: template });
    }
    if (Math.abs(chart.layout.height - update.height) > 1) await Plotly.relayout(chart, update);
  };
  const drawn = new Set();
  const draw = async (chart) => {
    if (drawn.has(chart.id)) return;
    drawn.add(chart.id);
    const { data, layout } = structuredClone(figures[chart.id]);
    layout.height += 300; // room for any legend, until it is measured
    await Plotly.newPlot(chart, data, layout, { ...options, toImageButtonOptions: { format: "svg", filename: chart.id } });
    await fit(chart);
    new ResizeObserver(() => { if (chart.clientWidth) requestAnimationFrame(() => fit(chart)); }).observe(chart.parentElement);
  };

  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) draw(entry.target);
  }, { rootMargin: "600px" });
  for (const chart of document.querySelectorAll(".chart")) near.observe(chart);

  const choose = (group) => {
    const key = [...group.querySelectorAll("select")].map((select) => select.value).join("-");
    for (const choice of group.querySelectorAll(".choice")) choice.hidden = choice.dataset.key !== key;
  };
  for (const group of document.querySelectorAll(".group")) {
    for (const select of group.querySelectorAll("select")) {
      select.addEventListener("change", () => choose(group));
      select.closest("label").hidden = select.options.length < 2;
    }
    choose(group);
  }

  const save = (text, name, type) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  const quoted = (text) => (/[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  for (const button of document.querySelectorAll("button.csv")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      const rows = [...document.getElementById(button.dataset.table).rows];
      const lines = rows.map((row) => [...row.cells].map((cell) => quoted(cell.textContent)).join(","));
      save(lines.join("\r\n") + "\r\n", `${button.dataset.table}.csv`, "text/csv");
    });
  }
  for (const button of document.querySelectorAll("button[data-file]")) {
    button.closest("p").hidden = false;
    const name = button.dataset.file;
    button.addEventListener("click", () => save(files[name], name, name.endsWith("csv") ? "text/csv" : "application/json"));
  }

  // On paper: every chosen chart, as wide as the page, and every table opened.
  const paper = matchMedia("print");
  let opened = [];
  const turn = () => {
    if (paper.matches) {
      opened = [...document.querySelectorAll(".choice:not([hidden]) details:not([open], .many)")];
      for (const one of opened) one.open = true;
    } else {
      for (const one of opened) one.open = false;
      opened = [];
    }
    for (const chart of document.querySelectorAll(".choice:not([hidden]) .chart")) {
      draw(chart).then(() => Plotly.relayout(chart, paper.matches ? { width: 660, autosize: false } : { width: null, autosize: true }))
        .then(() => fit(chart));
    }
  };
  paper.addEventListener("change", turn);
})();
