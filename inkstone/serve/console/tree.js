// A conversation is a tree of messages; what is shown is the path from its beginning to one leaf.

export const childrenOf = (messages, parent) => messages.filter((one) => one.parent === parent);

export function pathTo(messages, leaf) {
  const byId = new Map(messages.map((one) => [one.id, one]));
  const path = [];
  for (let one = byId.get(leaf); one; one = byId.get(one.parent)) path.unshift(one);
  return path;
}

// The newest end of the branch that begins with a message.
export function newestEnd(messages, id) {
  const last = childrenOf(messages, id).at(-1);
  return last ? newestEnd(messages, last.id) : id;
}

// What a model is asked with. A question that got no answer (stopped, too long, the server was away) is not asked again.
export const turnsOf = (path, system) => [
  ...(system ? [{ role: "system", content: system }] : []),
  ...path.filter(({ content }) => content.trim()).filter(({ role }, place, all) => role !== all[place + 1]?.role).map(({ role, content }) => ({ role, content })),
];
