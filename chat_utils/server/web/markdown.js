// Markdown as DOM nodes. Every word gets in by textContent: what a model or a user writes is never read as HTML.

const BLOCK = /^(```|~~~|#{1,6} |>|\s*([-*+]|\d{1,9}[.)]) |(-{3,}|\*{3,}|_{3,})\s*$|\|)/;
const ITEM = /^(\s*)([-*+]|\d{1,9}[.)]) (.*)$/;
// Each alternative ends at the next mark of its own kind, so that no text takes longer than its length: a label holds no
// "[", and code is looked for from a whole run of at most eight backticks.
const INLINE = /(?<!`)(`{1,8})(?!`)(.+?)(?<!`)\1(?!`)|\*\*(?=\S)(.+?)\*\*|__(?=\S)(.+?)__|\*(?=[^\s*])(.+?)\*|~~(.+?)~~|\[([^[\]\n]+)\]\(((?:[^\s()]|\([^\s()]*\))+)\)|(https?:\/\/[^\s<>"'）】」，。]+)/;

function make(name, ...children) {
  const node = document.createElement(name);
  node.append(...children);
  return node;
}

/** Return a link, or its text where it leads to anything but a page or a mail address. */
function makeLink(text, address) {
  if (!/^(https?:\/\/|mailto:)/i.test(address)) return document.createTextNode(text);
  const link = make("a", text);
  link.href = address;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  return link;
}

/** Return a heading's words without the marks that may close it; a pattern would try from each mark in the line. */
function cutClosing(words) {
  const text = words.trimEnd();
  let end = text.length;
  while (text[end - 1] === "#") end -= 1;
  return end === 0 || text[end - 1] === " " ? text.slice(0, end).trimEnd() : text; // "C#" ends with a mark of its own
}

/** Tell whether a line parts a table's head from its rows: | --- | :-: | */
function isTableRule(line) {
  const cells = line.trim().replace(/^\|/, "").split("|").map((cell) => cell.trim());
  return /^:?-+:?$/.test(cells[0]) && cells.every((cell) => /^:?-*:?$/.test(cell));
}

/** Return the nodes of one line's words: code, strong, emphasised, struck out, links. */
function renderInline(text, depth = 0) {
  const nodes = [];
  for (let rest = text; rest;) {
    const found = depth < 8 ? INLINE.exec(rest) : null;
    if (!found) {
      nodes.push(rest);
      break;
    }
    nodes.push(rest.slice(0, found.index));
    const [, , code, strong, strong2, em, struck, label, address, bare] = found;
    const inner = (name, words) => make(name, ...renderInline(words, depth + 1));
    if (code !== undefined) nodes.push(make("code", code.trim() || code));
    else if (strong ?? strong2) nodes.push(inner("strong", strong ?? strong2));
    else if (em) nodes.push(inner("em", em));
    else if (struck) nodes.push(inner("s", struck));
    else if (label) nodes.push(makeLink(label, address));
    else nodes.push(makeLink(bare, bare));
    rest = rest.slice(found.index + found[0].length);
  }
  return nodes;
}

/** Return lines as nodes with a break between two. */
const renderLines = (lines) => lines.flatMap((line, i) => (i ? [make("br")] : []).concat(renderInline(line)));

function renderCode(lines, language, makeCopy) {
  const text = lines.join("\n");
  const bar = make("div", make("span", language), makeCopy(() => text));
  bar.className = "bar";
  const block = make("div", bar, make("pre", make("code", text)));
  block.className = "code";
  return block;
}

function renderTable(rows) {
  const cells = (row) => row.trim().replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const line = (row, name) => make("tr", ...cells(row).map((cell) => make(name, ...renderInline(cell))));
  const body = rows.slice(2).map((row) => line(row, "td"));
  const wide = make("div", make("table", make("thead", line(rows[0], "th")), make("tbody", ...body)));
  wide.className = "scroll";
  return wide;
}

/** Return a list from lines that begin with items; deeper ones become lists within. */
function renderList(lines) {
  const [, indent, mark] = ITEM.exec(lines[0]);
  const list = make(/\d/.test(mark) ? "ol" : "ul");
  if (/\d/.test(mark) && parseInt(mark, 10) !== 1) list.start = parseInt(mark, 10);
  for (let i = 0; i < lines.length;) {
    const item = ITEM.exec(lines[i]);
    const words = [item ? item[3] : lines[i].trim()];
    const inner = [];
    for (i += 1; i < lines.length; i += 1) {
      const next = ITEM.exec(lines[i]);
      if (next && next[1].length <= indent.length) break;
      if (next || inner.length) inner.push(lines[i]);
      else words.push(lines[i].trim());
    }
    list.append(make("li", ...renderLines(words), ...(inner.length ? [renderList(inner)] : [])));
  }
  return list;
}

/** Return Markdown as a fragment; `makeCopy(read)` makes the button that copies a block of code. */
export function renderMarkdown(text, makeCopy) {
  const fragment = document.createDocumentFragment();
  const lines = text.split("\n");
  const takeWhile = (i, test) => {
    let end = i;
    while (end < lines.length && test(lines[end], end)) end += 1;
    return lines.slice(i, end);
  };
  for (let i = 0; i < lines.length;) {
    const line = lines[i];
    const fence = /^(```+|~~~+)\s*([\w+#.-]*)/.exec(line);
    const heading = /^(#{1,6}) (.+)$/.exec(line);
    if (!line.trim()) {
      i += 1;
    } else if (fence) {
      const body = takeWhile(i + 1, (one) => !one.startsWith(fence[1]));
      fragment.append(renderCode(body, fence[2], makeCopy));
      i += body.length + 2;
    } else if (heading) {
      fragment.append(make(`h${Math.min(heading[1].length + 2, 6)}`, ...renderInline(cutClosing(heading[2]))));
      i += 1;
    } else if (/^(-{3,}|\*{3,}|_{3,})\s*$/.test(line)) {
      fragment.append(make("hr"));
      i += 1;
    } else if (line.startsWith(">")) {
      const quoted = takeWhile(i, (one) => one.startsWith(">"));
      const inner = quoted.map((one) => one.replace(/^> ?/, ""));
      fragment.append(make("blockquote", inner.some((one) => one.startsWith(">"))
        ? make("p", ...renderLines(inner)) : renderMarkdown(inner.join("\n"), makeCopy)));
      i += quoted.length;
    } else if (ITEM.test(line)) {
      const items = takeWhile(i, (one, at) => ITEM.test(one) || (at > i && /^\s+\S/.test(one)));
      fragment.append(renderList(items));
      i += items.length;
    } else if (line.startsWith("|") && isTableRule(lines[i + 1] ?? "")) {
      const rows = takeWhile(i, (one) => one.startsWith("|"));
      fragment.append(renderTable(rows));
      i += rows.length;
    } else {
      const words = takeWhile(i, (one, at) => at === i || (one.trim() && !BLOCK.test(one)));
      fragment.append(make("p", ...renderLines(words)));
      i += words.length;
    }
  }
  return fragment;
}
