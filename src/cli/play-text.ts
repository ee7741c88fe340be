/** What a person at the terminal reads: tools as signatures, a reward check by check. */
import { type ExactValue, isArray, isObject } from "../base/exact.ts";
import { functionalFormat } from "../tau2/gym.ts";
import type { RewardInfo, RewardType, ToolSchema } from "../tau2/types.ts";

/** `name(id: string, limit: integer = …)` and the first line of the description. */
export function toolLines(tools: readonly ToolSchema[]): string[] {
  return tools.map(({ function: { name, description, parameters } }) => {
    const properties = isObject(parameters.properties ?? null)
      ? (parameters.properties as Readonly<Record<string, ExactValue>>)
      : {};
    const required = isArray(parameters.required) ? parameters.required : [];
    const list = Object.entries(properties).map(
      ([key, schema]) => `${key}${required.includes(key) ? "" : "?"}: ${typeName(schema)}`,
    );
    return `${name}(${list.join(", ")})\n    ${description.split("\n")[0]}`;
  });
}

function typeName(schema: ExactValue): string {
  if (!isObject(schema)) return "any";
  if (isArray(schema.enum)) return schema.enum.map((value) => `'${String(value)}'`).join(" | ");
  if (isArray(schema.anyOf)) return schema.anyOf.map(typeName).join(" | ");
  return typeof schema.type === "string" ? schema.type : "object";
}

/** The product and its factors, then every check; what does not count says so. */
export function rewardLines(reward: number, info: RewardInfo): string[] {
  const factors = Object.entries(info.reward_breakdown ?? {}).map(([kind, value]) => `${kind} ${value}`);
  const counts = (kind: RewardType) => (info.reward_basis?.includes(kind) ? "" : " (does not count)");
  const line = (met: boolean, kind: RewardType, what: string) => `  ${met ? "yes" : "no "}  ${what}${counts(kind)}`;
  const note = isObject(info.info) && typeof info.info.note === "string" ? [`  ${info.info.note}`] : [];
  return [
    `Reward: ${reward}${factors.length > 0 ? ` = ${factors.join(" × ")}` : ""}`,
    ...note,
    ...(info.db_check === null ? [] : [line(info.db_check.db_match, "DB", "the database is as it should be")]),
    ...(info.env_assertions ?? []).map(({ env_assertion: { func_name, arguments: args }, met }) =>
      line(met, "ENV_ASSERTION", functionalFormat({ name: func_name, arguments: args })),
    ),
    ...(info.action_checks ?? []).map(({ action, action_match }) =>
      line(
        action_match,
        "ACTION",
        `${action.requestor === "user" ? "the user called" : "called"} ${functionalFormat(action)}`,
      ),
    ),
    ...(info.communicate_checks ?? []).map(({ info: fact, met }) => line(met, "COMMUNICATE", `said "${fact}"`)),
    ...(info.nl_assertions ?? []).map(({ nl_assertion, met }) => line(met, "NL_ASSERTION", nl_assertion)),
  ];
}
