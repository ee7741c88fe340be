/**
 * JSON text of records. Records never change, and a changed one shares the unchanged parts with its predecessor, so the
 * text of every part is made once: rollouts of a task read and hash the same records again and again.
 */
import { dumps, type ExactObject, type ExactValue, Float, isArray, keysOf, sortedKeys } from "../base/exact.ts";

/** Keys in their own order: what a tool answers. */
export const outputText = textMaker(keysOf);
/** Keys sorted: what hashes are taken of. */
export const canonicalText = textMaker(sortedKeys);

function textMaker(keysIn: (object: ExactObject) => readonly string[]): (value: ExactValue) => string {
  const texts = new WeakMap<object, string>();

  function textOf(value: ExactValue): string {
    if (typeof value !== "object" || value === null || value instanceof Float) return dumps(value);
    let text = texts.get(value);
    if (text === undefined) {
      text = isArray(value) ? `[${value.map(textOf).join(", ")}]` : objectText(value);
      texts.set(value, text);
    }
    return text;
  }

  function objectText(object: ExactObject): string {
    let text = "{";
    for (const key of keysIn(object))
      text += `${text.length > 1 ? ", " : ""}${dumps(key)}: ${textOf(object[key] as ExactValue)}`;
    return `${text}}`;
  }

  return textOf;
}
