"use strict";
const figures = JSON.parse(document.getElementById("figures").textContent);

// A chart in a closed block has no size: it is drawn when the block is opened.
function draw() {
  for (const node of document.querySelectorAll(".chart:not([data-drawn])")) {
    if (node.offsetWidth === 0) continue;
    node.dataset.drawn = "";
    const { data, layout } = figures[Number(node.dataset.figure)];
    Plotly.newPlot(node, data, layout, { responsive: true, displayModeBar: false });
  }
}

for (const block of document.querySelectorAll("details")) block.addEventListener("toggle", draw);
draw();
