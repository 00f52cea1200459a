// Keeps things in this browser: each conversation under a key of its own, so that two tabs don't overwrite each other.

const PREFIX = "chat:";
const SETTINGS = "chat-page:settings"; // "settings" alone would be shared with whatever else runs at this address
const API_KEY = "chat-page:key"; // in this tab alone, and gone with it

/** Return the value kept under a key, or `otherwise` where there is none or the browser keeps nothing. */
export function read(key, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

/** Keep a value; return false where the browser has no room. */
export function keep(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** Return the settings, the API key among them. */
export function readSettings() {
  let key;
  try {
    key = sessionStorage.getItem(API_KEY) ?? undefined;
  } catch { /* the browser keeps nothing */ }
  return { ...read(SETTINGS, {}), key };
}

/** Keep the settings; return false where the browser has no room. */
export function storeSettings({ key, ...settings }) {
  try {
    if (key) sessionStorage.setItem(API_KEY, key);
    else sessionStorage.removeItem(API_KEY);
  } catch {
    return false;
  }
  return keep(SETTINGS, settings);
}

/** Return a new conversation: {id, salt, time, messages: [{role, content, ...notes}]}. */
export function makeConversation() {
  const salt = Array.from(crypto.getRandomValues(new Uint32Array(4)), (part) => part.toString(36)).join("");
  return { id: `${Date.now()}-${salt.slice(0, 8)}`, salt, time: Date.now(), messages: [] };
}

/** Return the kept conversations, the latest first. */
export function readConversations() {
  let keys = [];
  try {
    keys = Object.keys(localStorage).filter((key) => key.startsWith(PREFIX));
  } catch { /* the browser keeps nothing */ }
  const found = keys.map((key) => read(key, null)).filter((one) => Array.isArray(one?.messages));
  return found.sort((a, b) => b.time - a.time);
}

export const keepConversation = (conversation) => keep(PREFIX + conversation.id, conversation);
export const dropConversation = (id) => localStorage.removeItem(PREFIX + id);
