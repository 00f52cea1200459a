// What is kept in this browser: each conversation under a key of its own, so that two tabs don't overwrite each other.

const PREFIX = "chat:";

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

/** Return a new conversation: {id, time, messages: [{role, content, ...notes}]}. */
export function makeConversation() {
  return { id: `${Date.now()}-${Math.random().toString(36).slice(2)}`, time: Date.now(), messages: [] };
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
