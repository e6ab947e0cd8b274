// A formula as MathML that the browser draws itself: letters, numbers, indices, fractions, roots, Greek, usual signs.
// What is not understood is shown as it was written.

import { html } from "/console/vendor/preact-htm-3.1.1.js";

const GREEK = "alpha α beta β gamma γ delta δ epsilon ϵ varepsilon ε zeta ζ eta η theta θ iota ι kappa κ lambda λ mu μ nu ν xi ξ pi π rho ρ sigma σ tau τ upsilon υ phi ϕ varphi φ chi χ psi ψ omega ω Gamma Γ Delta Δ Theta Θ Lambda Λ Xi Ξ Pi Π Sigma Σ Phi Φ Psi Ψ Omega Ω ell ℓ hbar ℏ infty ∞ partial ∂ nabla ∇ emptyset ∅";
const SIGNS = "times × cdot ⋅ div ÷ pm ± mp ∓ le ≤ leq ≤ ge ≥ geq ≥ ne ≠ neq ≠ approx ≈ equiv ≡ sim ∼ propto ∝ in ∈ notin ∉ subset ⊂ subseteq ⊆ cup ∪ cap ∩ forall ∀ exists ∃ neg ¬ land ∧ lor ∨ to → rightarrow → leftarrow ← Rightarrow ⇒ Leftrightarrow ⇔ mapsto ↦ ldots … cdots ⋯ dots … sum ∑ prod ∏ int ∫ oint ∮ mid | langle ⟨ rangle ⟩ lfloor ⌊ rfloor ⌋ lceil ⌈ rceil ⌉ circ ∘ angle ∠ perp ⊥ parallel ∥ because ∵ therefore ∴ degree °";
const WORDS = ["sin", "cos", "tan", "cot", "log", "ln", "exp", "lim", "max", "min", "det", "gcd", "arg"];
const SPACES = { ",": "0.17em", ":": "0.22em", ";": "0.28em", " ": "0.3em", quad: "1em", qquad: "2em", "!": "0" };
const pairs = (text) => new Map(text.split(" ").reduce((all, word, place, words) => (place % 2 ? all : [...all, [word, words[place + 1]]]), []));
const LETTERS = pairs(GREEK);
const MARKS = pairs(SIGNS);

// Preact would make HTML elements of these names, so they are made by hand.
function node(name, ...children) {
  const made = document.createElementNS("http://www.w3.org/1998/Math/MathML", name);
  made.append(...children);
  return made;
}

function space(width) {
  const made = node("mspace");
  made.setAttribute("width", width);
  return made;
}

export function formula(text, display) {
  try {
    const tokens = text.match(/\\[a-zA-Z]+|\\.|\d+(?:\.\d+)?|[^\s]/gu) ?? [];
    const math = node("math", node("mrow", ...row(tokens, null)));
    math.setAttribute("display", display ? "block" : "inline");
    return html`<span ref=${(place) => place?.replaceChildren(math)} />`;
  } catch {
    return html`<code>${text}</code>`;
  }
}

function row(tokens, close) {
  const parts = [];
  while (tokens.length) {
    if (tokens[0] === close) {
      tokens.shift();
      return parts;
    }
    parts.push(scripts(atom(tokens), tokens));
  }
  if (close !== null) throw new Error("not closed");
  return parts;
}

function scripts(base, tokens) {
  let below, above;
  while (tokens[0] === "_" || tokens[0] === "^") {
    const sign = tokens.shift();
    if (sign === "_") below = atom(tokens);
    else above = atom(tokens);
  }
  if (below && above) return node("msubsup", base, below, above);
  if (below) return node("msub", base, below);
  return above ? node("msup", base, above) : base;
}

function atom(tokens) {
  const token = tokens.shift();
  if (token === undefined || token === "}" || token === "&") throw new Error("unexpected");
  if (token === "{") return node("mrow", ...row(tokens, "}"));
  if (/^\d/.test(token)) return node("mn", token);
  if (token[0] === "\\" && token.length > 1) return command(token.slice(1), tokens);
  return /\p{L}/u.test(token) ? node("mi", token) : node("mo", token);
}

function command(name, tokens) {
  if (LETTERS.has(name)) return node("mi", LETTERS.get(name));
  if (MARKS.has(name)) return node("mo", MARKS.get(name));
  if (WORDS.includes(name)) return node("mi", name);
  if (name in SPACES) return space(SPACES[name]);
  if (["frac", "dfrac", "tfrac"].includes(name)) return node("mfrac", atom(tokens), atom(tokens));
  if (name === "sqrt") return root(tokens);
  if (["left", "right", "big", "Big"].includes(name)) return tokens[0] === "." ? (tokens.shift(), node("mrow")) : atom(tokens);
  if (["text", "mathrm", "mathbf", "mathbb", "operatorname"].includes(name)) return node("mrow", atom(tokens));
  if (["{", "}", "%", "#", "_", "&", "|"].includes(name)) return node("mo", name);
  throw new Error(name);
}

function root(tokens) {
  if (tokens[0] !== "[") return node("msqrt", atom(tokens));
  tokens.shift();
  const degree = row(tokens, "]");
  return node("mroot", atom(tokens), node("mrow", ...degree));
}
