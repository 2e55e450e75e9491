/**
 * The report as one HTML file that needs nothing else: the same columns and lines, with a filter by the objects that they
 * touch. Ours; stress spec section 9.
 */
import { type Report, withoutMiddle } from "./report.ts";
import { historyPicture } from "./report-history.ts";

const escaped = (text: string): string =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll('"', "&quot;");

const STYLE = `body{font:14px/1.4 system-ui,sans-serif;margin:1rem;color:#111;background:#fff}
table{border-collapse:collapse}th,td{border:1px solid #bbb;padding:.2rem .5rem;vertical-align:top;text-align:left}
th{position:sticky;top:0;background:#eee}td.n{text-align:right;font-variant-numeric:tabular-nums}
tr.forced td.n{font-weight:bold}tr.quiet td{color:#666}tr.hidden{display:none}.bad{color:#a00;font-weight:bold}
input{width:30ch}@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}th{background:#333}.bad{color:#f88}}`;

const SCRIPT = `const rows=[...document.querySelectorAll("tbody tr")];
const apply=()=>{const word=document.querySelector("#filter").value.toLowerCase();
const all=document.querySelector("#all").checked;
for(const row of rows){const hit=row.textContent.toLowerCase().includes(word)||row.dataset.objects.toLowerCase().includes(word);
row.classList.toggle("hidden",!hit||(!all&&row.classList.contains("quiet")))}};
document.querySelector("#filter").addEventListener("input",apply);
document.querySelector("#all").addEventListener("change",apply);apply();`;

const historyOf = ({ history, steps }: Report): string =>
  history.length === 0
    ? ""
    : `<h2>What guests called of their grants</h2>
<p>A bar is a call up to its return, in steps; the red line is where it took effect.</p>
${historyPicture(history, steps.length, escaped)}`;

/** `command` shows the failure again. */
export function htmlReport(report: Report, command: string): string {
  const { failure, shrunk, columns, steps } = report;
  const rows = withoutMiddle(steps).map((step) => {
    const place = columns.indexOf(step.name);
    const cells = columns.map((_, i) =>
      i === place ? `<td>${step.phrases.map(escaped).join("<br>")}</td>` : "<td></td>",
    );
    const kind = step.forced ? "forced" : step.phrases.length === 0 ? "quiet" : "";
    const objects = escaped([...step.touched.keys()].join(" "));
    const number = `${step.forced ? "* " : ""}${step.step}`;
    return `<tr class="${kind}" data-objects="${objects}"><td class="n">${number}</td>${cells.join("")}</tr>`;
  });
  const list = (title: string, items: readonly string[]): string =>
    items.length === 0
      ? ""
      : `<h2>${title}</h2><ul>${items.map((item) => `<li>${escaped(item)}</li>`).join("")}</ul>`;
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>${escaped(failure.id)} in ${escaped(report.story)}</title>
<style>${STYLE}</style></head><body>
<h1>${escaped(failure.id)} in ${escaped(report.story)}</h1>
<p>${escaped(report.about)}</p>
<p class="bad">${shrunk.findings.map((text) => `✗ ${escaped(text)}`).join("<br>")}</p>
<p>${escaped(failure.strategy)}, seed ${failure.seed}, schedule ${failure.schedule}, memory ${shrunk.memory}; ${failure.steps} steps shrunk to
${shrunk.steps}, ${failure.deviations.length} switches to ${shrunk.deviations.length}. * marks a switch that the calm
schedule would not make.</p>
<p><code>${escaped(command)}</code></p>
<p><label>Only steps with <input id="filter" placeholder="header of ref 8"></label>
<label><input type="checkbox" id="all"> steps that say nothing too</label></p>
<table><thead><tr><th>step</th>${columns.map((name) => `<th>${escaped(name)}</th>`).join("")}</tr></thead>
<tbody>
${rows.join("\n")}
</tbody></table>
${historyOf(report)}${list("Necessary order", report.necessary)}${list("Who waits", report.waiting)}${list("What may race", report.racy)}
<script>${SCRIPT}</script></body></html>
`;
}
