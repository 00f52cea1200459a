// What the page says, in both languages.

export const WORDS = {
  en: {
    other: "中文", page: "Chat",
    newChat: "New chat", conversations: "Conversations", conversation: "Conversation", settings: "Settings",
    theme: "Light or dark", save: "Save as JSON", send: "Send", stop: "Stop", copy: "Copy", copied: "Copied",
    retry: "Try again", like: "Good reply", dislike: "Bad reply", edit: "Edit", remove: "Delete", cancel: "Cancel", done: "Done", defaults: "Defaults",
    message: "Write a message", untitled: "New chat", you: "You", assistant: "Assistant",
    welcome: "What would you like to talk about?",
    keptHere: "Conversations stay in this browser.",
    caution: "A small model makes things up. Check what matters.",
    system: "System prompt", systemHint: "How should the assistant behave?",
    temperature: "Temperature (0 to 2)", top_p: "Top p (0 to 1)", repetition_penalty: "Repetition penalty",
    max_tokens: "Longest reply (tokens)", seed: "Seed", key: "API key",
    emptyIsDefault: "An empty field takes the server's default, shown in grey.",
    stopped: "Stopped", failed: "Failed", length: "Cut off at the longest reply", loop: "Ended, since it began to repeat itself",
    dropped: "The window is full: the oldest turns are no longer seen",
    speed: (tokens, seconds) => `${tokens} tokens in ${seconds} s`,
    confirmRemove: (title) => `Delete "${title}"?`,
    examples: ["Hello! How are you today?", "Tell me about your day.", "What do you like to eat?"],
    errors: {
      context_length_exceeded: "This message is longer than what the model can read. Shorten it.",
      request_too_large: "This is larger than what the server takes. Shorten it, or begin a new chat.",
      rate_limit_exceeded: "The server is busy. Try again in a moment.",
      invalid_api_key: "The API key is missing or wrong. Set it in the settings.",
      network: "The server does not answer. Is it still running?",
      storage: "This browser has no room left: the conversation is not kept.",
      empty_message: "This message has no words that can be read.",
      internal_error: "The server failed on this message. Its log says where.",
    },
    refused: (error) => error.message,
  },
  zh: {
    other: "English", page: "聊天",
    newChat: "新对话", conversations: "对话列表", conversation: "对话", settings: "设置",
    theme: "浅色或深色", save: "保存为 JSON", send: "发送", stop: "停止", copy: "复制", copied: "已复制",
    retry: "重新回答", like: "回答得好", dislike: "回答得不好", edit: "编辑", remove: "删除", cancel: "取消", done: "完成", defaults: "恢复默认",
    message: "输入消息", untitled: "新对话", you: "你", assistant: "助手",
    welcome: "想聊点什么？",
    keptHere: "对话只保存在这个浏览器里。",
    caution: "小模型会编造内容，重要的事请核实。",
    system: "系统提示词", systemHint: "希望助手怎样表现？",
    temperature: "温度（0 到 2）", top_p: "Top p（0 到 1）", repetition_penalty: "重复惩罚",
    max_tokens: "最长回复（词元）", seed: "随机种子", key: "API 密钥",
    emptyIsDefault: "留空则使用服务器的默认值（灰色数字）。",
    stopped: "已停止", failed: "出错了", length: "已达到最长回复，被截断", loop: "开始重复，已结束",
    dropped: "窗口已满：模型看不到最早的几轮对话",
    speed: (tokens, seconds) => `${tokens} 个词元，${seconds} 秒`,
    confirmRemove: (title) => `删除“${title}”？`,
    examples: ["你好！今天过得怎么样？", "你叫什么名字？", "你喜欢吃什么？"],
    errors: {
      context_length_exceeded: "这条消息超出了模型能读的长度，请缩短。",
      request_too_large: "内容超过了服务器的上限，请缩短，或新建对话。",
      rate_limit_exceeded: "服务器正忙，请稍后再试。",
      invalid_api_key: "API 密钥缺失或错误，请在设置中填写。",
      network: "服务器没有响应，它还在运行吗？",
      storage: "浏览器存储空间已满：对话无法保存。",
      empty_message: "这条消息里没有可读的文字。",
      internal_error: "服务器处理这条消息时出错，原因见它的日志。",
    },
    refused: (error) => `服务器拒绝了这个请求（${error.code}）。`,
  },
};

/** Return the language to begin with: what was chosen before, else the browser's first that we have. */
export function firstLanguage(chosen, browser) {
  const names = [chosen, ...browser].filter(Boolean).map((name) => name.slice(0, 2).toLowerCase());
  return names.find((name) => name in WORDS) ?? "en";
}
