/**
 * Progressive adapters (after Rusu et al. 2016): an experience trains a new column and, per module, a gate from 0 on each
 * earlier one: W₀x + Σ_{k<t} g_k·B_kA_kx + B_tA_tx. Earlier columns never change; a domain is answered by its own newest
 * column, one that was never trained by the newest of all.
 */
import { type AdapterConfig, newAdapter } from "./adapter.ts";
import { type ContinualMethod, PLAIN } from "./method.ts";

export function progressive(config: AdapterConfig): ContinualMethod {
  let state: { columns: Record<string, string>; newest: string | null } = { columns: {}, newest: null };
  return {
    ...PLAIN,
    name: "progressive",
    ownAdapters: true,
    beforeExperience: ({ experience: { index, domain }, rng }) => {
      const column = `column_${index}`;
      state = { columns: { ...state.columns, [domain]: column }, newest: column };
      return [newAdapter(column, config, rng, { gates: true })];
    },
    beforeDomain: (domain) => {
      const column = state.columns[domain] ?? state.newest;
      return column === null ? [] : [{ op: "activate_adapter", column }];
    },
    state: () => state,
    restore: (saved) => {
      state = saved as typeof state;
    },
  };
}
