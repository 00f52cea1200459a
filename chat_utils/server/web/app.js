// The page: conversations, their messages, and what the buttons do.

import { readModel, streamReply } from "./api.js";
import { renderMarkdown } from "./markdown.js";
import {
  dropConversation, keepConversation, makeConversation, readConversations, readSettings, storeSettings,
} from "./store.js";
import { WORDS, firstLanguage } from "./words.js";

const NUMBERS = ["temperature", "top_p", "repetition_penalty", "max_tokens", "seed"];
const find = (id) => document.getElementById(id);
const thread = find("thread"), input = find("input"), form = find("dialog").querySelector("form");

const settings = readSettings();
let language = firstLanguage(settings.language, navigator.languages);
let words = WORDS[language];
let conversations = readConversations();
let current = conversations[0] ?? makeConversation();
let model = null; // what the server says of it
let running = null; // the AbortController of the reply that is being made
let shown = null; // the error that is shown

// Small parts

/** Return an element with a class, a text and properties. */
function make(name, className, text, properties = {}) {
  const node = Object.assign(document.createElement(name), properties);
  if (className) node.className = className;
  if (text) node.textContent = text;
  return node;
}

/** Return a button with an icon, a label for who can't see it, and what it does. */
function makeButton(icon, label, action) {
  const button = make("button", "icon", "", { type: "button", title: label, onclick: action });
  button.setAttribute("aria-label", label);
  setIcon(button, icon);
  return button;
}

function setIcon(button, icon) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${icon}`);
  svg.append(use);
  button.replaceChildren(svg);
}

const makeCopy = (readText) => makeButton("copy", words.copy, async ({ currentTarget }) => {
  await copyText(readText());
  currentTarget.classList.add("done");
  say(words.copied);
  setTimeout(() => currentTarget.classList.remove("done"), 1200);
});

async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = make("textarea", "unseen", "", { value: text }); // plain HTTP from another machine has no clipboard
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  return area.remove();
}

/** Tell who listens rather than looks. */
const say = (text) => { find("heard").textContent = text; };

function showError(error) {
  shown = error;
  find("error").textContent = error ? words.errors[error.code] ?? words.refused(error) : "";
  find("error").hidden = !error;
}

const isNearEnd = () => thread.scrollHeight - thread.scrollTop - thread.clientHeight < 80;
const scrollToEnd = () => { thread.scrollTop = thread.scrollHeight; };

// Drawing

const titleOf = (one) => one.messages.find((message) => message.role === "user")?.content.slice(0, 60) ?? words.untitled;

function drawList() {
  find("list").replaceChildren(...conversations.map((one) => {
    const item = make("li");
    const open = make("button", "open", titleOf(one), { type: "button", dir: "auto", onclick: () => openConversation(one) });
    if (one.id === current.id) open.setAttribute("aria-current", "true");
    const remove = makeButton("delete", `${words.remove}: ${titleOf(one)}`, () => removeConversation(one));
    item.append(open, remove);
    return item;
  }));
}

function drawNotes(message, index) {
  const isFirst = !current.messages.slice(0, index).some((earlier) => earlier.dropped);
  const notes = [message.note ? words[message.note] : null, message.dropped && isFirst ? words.dropped : null];
  if (message.tokens) notes.push(words.speed(message.tokens, message.seconds));
  return notes.filter(Boolean).join(" · ");
}

/** Fill a message's element with its text, its notes and its buttons. */
function drawMessage(article, index) {
  const message = current.messages[index];
  const body = make("div", "body");
  body.dir = "auto";
  if (message.role === "user") body.textContent = message.content;
  else body.append(renderMarkdown(message.content, makeCopy));
  const isRunning = running && index === current.messages.length - 1;
  const bar = make("div", "bar");
  if (!isRunning) {
    bar.append(makeCopy(() => message.content));
    if (message.role === "user") bar.append(makeButton("edit", words.edit, () => editMessage(index)));
    else {
      bar.append(makeButton("retry", words.retry, () => retry(index)));
      for (const [name, liked] of [["like", true], ["dislike", false]]) {
        const button = makeButton(name, words[name], () => rate(index, liked));
        button.setAttribute("aria-pressed", String(message.liked === liked));
        bar.append(button);
      }
    }
    bar.append(make("span", "notes", drawNotes(message, index)));
  } else if (!message.content) body.append(make("span", "wait"));
  article.className = `message ${message.role}`;
  article.setAttribute("aria-label", message.role === "user" ? words.you : words.assistant);
  article.replaceChildren(body, bar);
}

function drawThread() {
  find("save").disabled = !current.messages.length;
  if (!current.messages.length) {
    const welcome = make("div", "welcome");
    const examples = words.examples.map((text) => make("button", "example", text, { type: "button", onclick: () => ask(text) }));
    welcome.append(make("h2", "", words.welcome), ...examples);
    thread.replaceChildren(welcome);
  } else {
    thread.replaceChildren(...current.messages.map((_, index) => {
      const article = make("article");
      drawMessage(article, index);
      return article;
    }));
  }
  scrollToEnd();
}

/** Write every word of the page in the language chosen. */
function drawWords() {
  words = WORDS[language];
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const node of document.querySelectorAll("[data-word]")) node.textContent = words[node.dataset.word];
  for (const node of document.querySelectorAll("[data-hint]")) node.placeholder = words[node.dataset.hint];
  for (const node of document.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", words[node.dataset.label]);
    if (node.tagName === "BUTTON") node.title = words[node.dataset.label];
  }
  find("language").textContent = words.other;
  find("model").textContent = document.title = model?.id ?? words.page;
  showError(shown);
  drawSend();
  drawList();
  drawThread();
}

function drawSend() {
  const label = running ? words.stop : words.send;
  setIcon(find("send"), running ? "stop" : "send");
  find("send").setAttribute("aria-label", label);
  find("send").title = label;
  find("send").disabled = !running && !input.value.trim();
}

// Conversations

function keepCurrent() {
  current.time = Date.now();
  if (!conversations.includes(current)) conversations.unshift(current);
  if (!keepConversation(current)) showError({ code: "storage" });
}

function openConversation(one) {
  running?.abort();
  current = one;
  showError(null);
  showSide(false);
  drawList();
  drawThread();
}

function removeConversation(one) {
  if (!confirm(words.confirmRemove(titleOf(one)))) return;
  if (one === current) running?.abort();
  conversations = conversations.filter((other) => other !== one);
  dropConversation(one.id);
  if (one === current) openConversation(conversations[0] ?? makeConversation());
  else drawList();
}

// Messages

/** Tell whether no window holds a text, and say so: the server would too, after seconds of drawing it here. */
function refuseTooLong(text) {
  const isTooLong = text.trim().length > model?.longest_message; // UTF-8 has a byte at least for each unit of `length`
  if (isTooLong) showError({ code: "context_length_exceeded" });
  return isTooLong;
}

/** Put the user's message at a place and the reply after it; return false where it is not taken. */
function ask(text, index = current.messages.length) {
  if (running || !text.trim() || refuseTooLong(text)) return false;
  answer([...current.messages.slice(0, index), { role: "user", content: text }]);
  return true;
}

function retry(index) {
  if (running) return;
  answer(current.messages.slice(0, index), (current.messages[index].tries ?? 0) + 1);
}

/** Note whether a reply is liked, or take that back; the note is saved with the conversation. */
function rate(index, liked) {
  const message = current.messages[index];
  message.liked = message.liked === liked ? undefined : liked;
  keepCurrent();
  drawMessage(thread.children[index], index);
}

/** Let the user write a message anew; it begins with what it says, or with the text given. */
function editMessage(index, text = current.messages[index].content) {
  if (running) return;
  const article = thread.children[index];
  const area = make("textarea", "", "", { value: text, dir: "auto", rows: 3 });
  area.setAttribute("aria-label", words.edit);
  const finish = () => ask(area.value, index);
  const cancel = () => drawMessage(article, index);
  const actions = make("div", "actions");
  actions.append(
    make("button", "text", words.cancel, { type: "button", onclick: cancel }),
    make("button", "primary", words.send, { type: "button", onclick: finish }),
  );
  area.onkeydown = (event) => {
    if (event.key === "Escape") cancel();
    else if (isSendKey(event)) finish();
  };
  article.classList.add("editing");
  article.replaceChildren(area, actions);
  if (document.activeElement !== input) area.focus(); // who writes the next message meanwhile goes on
}

/** Return the system prompt and the turns; an answer without words is "…", as the server reads it and the terminal keeps it. */
function writeMessages(messages, withThumbs = false) {
  const hasWords = (text) => /[^\s\p{Cc}\p{Cf}]/u.test(text);
  const system = hasWords(settings.system ?? "") ? [{ role: "system", content: settings.system }] : [];
  const turns = messages.map(({ role, content, liked }) => ({
    role, content: role === "user" || hasWords(content) ? content : "…", ...(withThumbs && liked !== undefined ? { liked } : {}),
  }));
  return [...system, ...turns];
}

/** Return what the server is asked: the messages and the settings that are set; each new try takes the next seed. */
function writeRequest(messages, tries) {
  const numbers = Object.fromEntries(NUMBERS.filter((name) => settings[name] !== undefined).map((name) => [name, settings[name]]));
  const seed = settings.seed ?? model?.defaults.seed;
  if (tries && typeof seed === "number") numbers.seed = (seed + tries) % 2 ** 53;
  return { messages: writeMessages(messages), ...numbers };
}

/** Let the model answer messages, piece by piece; with the reply they take the place of the conversation's own. */
async function answer(messages, tries = 0) {
  const conversation = current, before = current.messages, stopper = new AbortController(), started = performance.now();
  // The salt, which nobody else knows, lets a reply go on from this conversation's KV states.
  const body = { ...writeRequest(messages, tries), cache_salt: current.salt ?? current.id };
  const message = { role: "assistant", content: "", ...(tries && { tries }) };
  conversation.messages = [...messages, message];
  running = stopper;
  showError(null);
  if (messages.length > before.length) keepCurrent(); // what is to be replaced stays kept until the reply has begun
  drawList();
  drawThread();
  drawSend();
  thread.setAttribute("aria-busy", "true");
  let frame = 0, failure = null;
  const draw = () => {
    frame = 0;
    const follow = isNearEnd(), index = conversation.messages.indexOf(message);
    if (conversation === current && index >= 0) drawMessage(thread.children[index], index);
    if (follow) scrollToEnd();
  };
  try {
    for await (const event of streamReply(body, settings.key, stopper.signal)) {
      if (event.piece) {
        message.content += event.piece;
        frame ||= requestAnimationFrame(draw);
      } else if (event.reason) {
        if (event.reason !== "stop") message.note = event.reason;
      } else {
        message.tokens = event.usage.completion_tokens;
        message.dropped = event.usage.dropped_messages;
        message.seconds = ((performance.now() - started) / 1000).toFixed(2);
      }
    }
    say(`${words.assistant}: ${message.content}`);
  } catch (error) {
    failure = error;
    message.note = error.name === "AbortError" ? "stopped" : "failed";
  }
  cancelAnimationFrame(frame);
  running = null;
  thread.setAttribute("aria-busy", "false");
  if (failure && failure.name !== "AbortError") showError(failure);
  if (failure && !message.content) takeBack(conversation, before, failure.name === "AbortError");
  if (conversations.includes(conversation) && !keepConversation(conversation)) showError({ code: "storage" });
  draw();
  drawSend();
}

/** After a reply that ended before its first word: nothing that was there before it, or was written, is lost. */
function takeBack(conversation, before, isStopped) {
  const index = conversation.messages.length - 2, asked = conversation.messages[index];
  const isSent = index === before.length; // else it was to replace what stood there
  if (isSent && (isStopped || input.value || conversation !== current)) return; // the turn stays, to be tried again
  conversation.messages = before;
  if (!before.length) {
    conversations = conversations.filter((other) => other !== conversation);
    dropConversation(conversation.id);
  }
  drawList();
  if (conversation !== current) return;
  drawThread();
  if (!isSent && asked !== before[index]) editMessage(index, asked.content);
  if (isSent) input.value = asked.content;
  fitInput();
}

// What the user does

/** Tell whether a key press sends: Enter, but not the one that ends the composing of Chinese, nor on a touch keyboard. */
const isSendKey = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229
  && !matchMedia("(pointer: coarse)").matches;

function fitInput() {
  input.style.height = "auto";
  input.style.height = `${Math.min(input.scrollHeight, innerHeight * 0.4)}px`;
  drawSend();
}

function send() {
  if (!ask(input.value)) return;
  input.value = "";
  fitInput();
}

function showSide(isOpen) {
  document.body.classList.toggle("side-open", isOpen);
  find("menu").setAttribute("aria-expanded", isOpen);
}

function drawTheme() {
  if (settings.theme) document.documentElement.dataset.theme = settings.theme;
}

function openSettings() {
  for (const name of [...NUMBERS, "system", "key"]) {
    form.elements[name].value = settings[name] ?? "";
    if (NUMBERS.includes(name)) form.elements[name].placeholder = model?.defaults?.[name] ?? "";
  }
  if (model) form.elements.max_tokens.max = model.window;
  find("dialog").showModal();
}

function keepSettings() {
  for (const name of NUMBERS) {
    const field = form.elements[name];
    if (field.validity.valid) settings[name] = field.value === "" ? undefined : field.valueAsNumber;
  }
  for (const name of ["system", "key"]) settings[name] = form.elements[name].value || undefined;
  if (!storeSettings(settings)) showError({ code: "storage" });
  showModel();
}

async function showModel() {
  try {
    model = await readModel(settings.key);
    find("model").textContent = document.title = model.id;
    showError(null);
  } catch (error) {
    showError(error);
  }
}

function saveAsJson() {
  const file = JSON.stringify({ messages: writeMessages(current.messages, true) });
  const blob = new Blob([`${file}\n`], { type: "application/json" });
  const link = make("a", "", "", { href: URL.createObjectURL(blob), download: "conversation.json" });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

find("composer").onsubmit = (event) => {
  event.preventDefault();
  if (running) running.abort();
  else send();
};
input.oninput = fitInput;
input.onkeydown = (event) => {
  if (!isSendKey(event)) return;
  event.preventDefault();
  send();
};
document.querySelector("main").addEventListener("beforeinput", (event) => { // a paste: laying out a megabyte takes a browser seconds
  if (refuseTooLong(event.data ?? "")) event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (document.body.classList.contains("side-open")) showSide(false);
  else if (!find("dialog").open) running?.abort();
});
find("new").onclick = () => {
  openConversation(makeConversation());
  input.focus();
};
find("menu").onclick = () => showSide(!document.body.classList.contains("side-open"));
find("shade").onclick = () => showSide(false);
find("settings").onclick = openSettings;
find("save").onclick = saveAsJson;
find("defaults").onclick = () => {
  for (const name of [...NUMBERS, "system"]) form.elements[name].value = "";
};
find("dialog").oncancel = (event) => { if (!form.reportValidity()) event.preventDefault(); }; // Escape: say what is wrong
find("dialog").onclose = keepSettings;
find("language").onclick = () => {
  language = settings.language = language === "zh" ? "en" : "zh";
  storeSettings(settings);
  drawWords();
};
find("theme").onclick = () => {
  const isDark = settings.theme ? settings.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  settings.theme = isDark ? "light" : "dark";
  storeSettings(settings);
  drawTheme();
};
addEventListener("pagehide", () => { if (running && current.messages.at(-1).content) keepConversation(current); });

drawTheme();
drawWords();
showModel();
if (!matchMedia("(pointer: coarse)").matches) input.focus();
