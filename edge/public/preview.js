// `?preview=STATE` shows a state of the page without the gate. page.js sends nothing in a preview.

const FROM_NOW_MS = 95_000;
const claim = (status) => ({ status, slot: 42, code: "ABCD-EFGH-JKMN-PQRS" });
const campaign = (state, remaining = 0) => ({ state, remaining, capacity: 100, opens_at: Date.now() - 60_000, closes_at: null });
const soon = () => ({ ...campaign("not-open", 100), opens_at: Date.now() + FROM_NOW_MS });

/** The states, and what the page then knows. */
export const STATES = {
  loading: () => ({}),
  waiting: () => ({ campaign: soon() }),
  "waiting-days": () => ({ campaign: { ...soon(), opens_at: Date.now() + 3 * 86_400_000 + FROM_NOW_MS } }),
  "sign-in": () => ({ campaign: soon(), signed_out: true }),
  open: () => ({ campaign: campaign("open", 58) }),
  asking: () => ({ campaign: campaign("open", 58), asking: true }),
  undecided: () => ({ campaign: campaign("open", 58), asking: true, note_key: "undecided_note" }),
  paused: () => ({ campaign: campaign("paused", 58) }),
  "sold-out": () => ({ campaign: campaign("sold-out") }),
  closed: () => ({ campaign: campaign("closed") }),
  admitted: () => ({ campaign: campaign("open", 58), claim: claim("admitted") }),
  issued: () => ({ campaign: campaign("open", 58), claim: claim("issued") }),
  refused: () => ({ campaign: campaign("sold-out"), claim: claim("refused") }),
  unknown: () => ({ unknown: true }),
};
