// model.py in JavaScript, forward only: tokens to logits, with every map on the way, and with edits of the maps.
//
// A model is what lab/page.py writes: config, kind (softmax or softmax1), pairs (whether two maps make a head),
// embedding, and per layer qkv, out, gate, up, down (each {rows, columns, data}), and where it has them lam (one λ per
// head), g (one per map: scores are g cos(q, k)) and gain (of the norm of heads, with its factor). Rows of tokens are
// Float32Array, one after the other. A memory holds what was computed for some tokens and edits: the next text is
// computed from where it differs, the next edits from the first layer that they change, `dirty`.

// As trained: the learned λ of every layer, negative weights kept.
const newEdits = () => ({ lam: [], negative: true });

// Weights come as one character per number, of the levels −43 to 43, and a scale per row.
function unpack({ rows, columns, codes, scales }, alphabet) {
  const levels = new Float32Array(128), data = new Float32Array(rows * columns);
  [...alphabet].forEach((c, i) => levels[c.charCodeAt(0)] = i - (alphabet.length - 1) / 2);
  for (let row = 0, i = 0; row < rows; row++)
    for (const end = i + columns; i < end; i++) data[i] = levels[codes.charCodeAt(i)] * scales[row];
  return { rows, columns, data };
}

// X Wᵀ for n rows X. Four rows of X and two of W at a time: eight sums for six numbers that are read.
function times(X, n, { rows, columns, data }) {
  const Y = new Float32Array(n * rows), whole = n - n % 4;
  for (let row = 0; row < rows; row += 2) {
    const w = row * columns, other = Math.min(row + 1, rows - 1), z = other * columns;
    for (let t = 0; t < whole; t += 4) {
      const x0 = t * columns, x1 = x0 + columns, x2 = x1 + columns, x3 = x2 + columns;
      let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
      for (let i = 0; i < columns; i++) {
        const p = data[w + i], q = data[z + i], c0 = X[x0 + i], c1 = X[x1 + i], c2 = X[x2 + i], c3 = X[x3 + i];
        a0 += p * c0; a1 += p * c1; a2 += p * c2; a3 += p * c3;
        b0 += q * c0; b1 += q * c1; b2 += q * c2; b3 += q * c3;
      }
      const y = t * rows + row, step = other - row;
      Y[y] = a0; Y[y + rows] = a1; Y[y + 2 * rows] = a2; Y[y + 3 * rows] = a3;
      Y[y + step] = b0; Y[y + rows + step] = b1; Y[y + 2 * rows + step] = b2; Y[y + 3 * rows + step] = b3;
    }
    for (let t = whole; t < n; t++) {
      let a = 0, b = 0;
      for (let i = 0, x = t * columns; i < columns; i++, x++) { a += data[w + i] * X[x]; b += data[z + i] * X[x]; }
      Y[t * rows + row] = a;
      Y[t * rows + other] = b;
    }
  }
  return Y;
}

// x / √mean(x²) for each of n rows, times a gain if there is one.
function normed(X, n, gain) {
  const width = X.length / n, Y = new Float32Array(X.length);
  for (let t = 0; t < n; t++) {
    let squares = 0;
    for (let i = t * width; i < (t + 1) * width; i++) squares += X[i] * X[i];
    const scale = 1 / Math.sqrt(squares / width + 1e-5);
    for (let i = 0; i < width; i++) Y[t * width + i] = X[t * width + i] * scale * (gain ? gain[i] : 1);
  }
  return Y;
}

// Rotary positions: halves (a, b) of the D channels from `at` on become (a cos − b sin, b cos + a sin), in place.
function rotate(X, at, D, position) {
  for (let i = 0; i < D / 2; i++) {
    const [cos, sin] = turn(position, i, D), a = X[at + i], b = X[at + i + D / 2];
    X[at + i] = a * cos - b * sin;
    X[at + i + D / 2] = b * cos + a * sin;
  }
}

const turns = {};

function turn(position, i, D) {
  const known = (turns[D] ??= [])[position] ??= Array.from({ length: D / 2 }, (_, i) => {
    const angle = position * 10000 ** (-2 * i / D);
    return [Math.cos(angle), Math.sin(angle)];
  });
  return known[i];
}

// A row of scores becomes a row of weights, in place.
function weigh(S, kind) {
  let top = kind === "softmax1" ? 0 : -Infinity, sum = 0;
  for (const s of S) if (s > top) top = s;
  if (kind === "softmax1") sum = Math.exp(-top);
  for (let j = 0; j < S.length; j++) sum += S[j] = Math.exp(S[j] - top);
  for (let j = 0; j < S.length; j++) S[j] /= sum;
}

function newMemory(model, edits = newEdits()) {
  const { block_size: L, n_layer, n_head, n_embd: C, vocab_size: V } = model.config;
  const heads = model.pairs ? n_head / 2 : n_head, square = () => new Float32Array(L * L);
  const layers = Array.from({ length: n_layer }, () => ({
    k: new Float32Array(L * C), v: new Float32Array(L * C),
    maps: Array.from({ length: n_head }, square),  // A₁ and A₂ of head i are maps 2i and 2i + 1
    A: Array.from({ length: heads }, square),
  }));
  const inputs = Array.from({ length: n_layer }, () => new Float32Array(L * C));
  return { tokens: [], edits, dirty: n_layer, layers, inputs, logits: new Float32Array(L * V) };
}

// Fill `memory` with what the model makes of `tokens`, at most block_size of them.
function forward(model, memory, tokens) {
  const { n_embd: C, vocab_size: V } = model.config, { inputs, dirty } = memory;
  let start = 0;
  while (start < tokens.length && tokens[start] === memory.tokens[start]) start++;
  let n = tokens.length - start, X = new Float32Array(n * C);
  for (let t = 0; t < n; t++) X.set(model.embedding.data.subarray(tokens[start + t] * C, (tokens[start + t] + 1) * C), t * C);
  const add = Y => { for (let i = 0; i < X.length; i++) X[i] += Y[i]; };
  model.layers.forEach((layer, depth) => {
    inputs[depth].set(X, start * C);
    if (depth === dirty) [start, n, X] = [0, tokens.length, inputs[depth].slice(0, tokens.length * C)];
    if (!n) return;
    add(times(attention(model, layer, memory, depth, normed(X, n), start), n, layer.out));
    const Z = normed(X, n), gate = times(Z, n, layer.gate), up = times(Z, n, layer.up);
    add(times(gate.map((x, i) => x / (1 + Math.exp(-x)) * up[i]), n, layer.down));
  });
  if (n) memory.logits.set(times(normed(X, n), n, model.embedding), start * V);
  [memory.tokens, memory.dirty] = [[...tokens], model.layers.length];
  return memory;
}

// Queries, keys and values of n tokens from position `start` on, whose normalised rows are Z: rows of 3C, rotated.
function project(model, layer, Z, n, start) {
  const { n_head: H, n_embd: C } = model.config, D = C / H, QKV = times(Z, n, layer.qkv);
  for (let t = 0; t < n; t++) for (let map = 0; map < 2 * H; map++) {  // queries, then keys
    const at = 3 * C * t + map * D;
    rotate(QKV, at, D, start + t);
    if (layer.g) toLengthOne(QKV.subarray(at, at + D));
  }
  return QKV;
}

// Scores of the query that begins at Q[at], with the keys k of a map up to `position`, into S.
function score(model, layer, Q, at, k, map, position, S) {
  const { n_head: H, n_embd: C } = model.config, D = C / H, scale = layer.g ? layer.g[map] : 1 / Math.sqrt(D);
  for (let j = 0; j <= position; j++) {
    let s = 0;
    for (let i = 0; i < D; i++) s += Q[at + map * D + i] * k[j * C + map * D + i];
    S[j] = scale * s;
  }
  return S;
}

// A V with normalised heads for the tokens from `start` on, whose normalised rows are Z.
function attention(model, layer, memory, depth, Z, start) {
  const { block_size: L, n_head: H, n_embd: C } = model.config, n = Z.length / C;
  const { edits, layers } = memory, { k, v, maps, A } = layers[depth];
  const heads = A.length, Y = new Float32Array(n * C), QKV = project(model, layer, Z, n, start);
  for (let t = 0; t < n; t++) {
    const at = 3 * C * t, position = start + t, from = position * L;
    k.set(QKV.subarray(at + C, at + 2 * C), position * C);
    v.set(QKV.subarray(at + 2 * C, at + 3 * C), position * C);
    for (let map = 0; map < H; map++)
      weigh(score(model, layer, QKV, at, k, map, position, maps[map].subarray(from, from + position + 1)), model.kind);
    for (let head = 0; head < heads; head++) {
      const row = difference(layer, edits, depth, maps, head, from, position + 1);
      A[head].set(row, from);
      Y.set(valuesOf(row, v, head, C, heads), t * C + head * C / heads);
    }
  }
  return layer.gain ? normed(Y, n * heads, layer.gain) : Y;
}

// The sum of a head's values, each times its weight in the row.
function valuesOf(row, v, head, C, heads) {
  const E = C / heads, y = new Float32Array(E);
  for (let j = 0; j < row.length; j++) for (let i = 0; i < E; i++) y[i] += row[j] * v[j * C + head * E + i];
  return y;
}

const lamOf = (layer, edits, depth, head) => edits.lam[depth] ?? layer.lam[head % layer.lam.length];

// A row of A of one head: A₁ − λA₂, or A₁ where a head has one map.
function difference(layer, edits, depth, maps, head, from, n) {
  const first = maps[layer.lam ? 2 * head : head].subarray(from, from + n), row = Float32Array.from(first);
  if (layer.lam) {
    const second = maps[2 * head + 1].subarray(from, from + n), lam = lamOf(layer, edits, depth, head);
    for (let j = 0; j < n; j++) row[j] -= lam * second[j];
  }
  return edits.negative ? row : row.map(a => Math.max(0, a));
}

// What one head does for one query, step by step: scores S and weights of its maps, λ, A, the sum of values, the output.
function stepsOf(model, memory, depth, head, position) {
  const layer = model.layers[depth], { n_embd: C, block_size: L } = model.config, { k, v, maps, A } = memory.layers[depth];
  const x = memory.inputs[depth].slice(position * C, (position + 1) * C), QKV = project(model, layer, normed(x, 1), 1, position);
  const mine = layer.lam ? [2 * head, 2 * head + 1] : [head], row = map => map.slice(position * L, position * L + position + 1);
  const a = row(A[head]), y = valuesOf(a, v, head, C, A.length);
  return {
    S: mine.map(map => score(model, layer, QKV, 0, k, map, position, new Float32Array(position + 1))),
    A: mine.map(map => row(maps[map])), lam: layer.lam && lamOf(layer, memory.edits, depth, head),
    a, y, out: layer.gain ? normed(y, 1, layer.gain) : y,
  };
}

function toLengthOne(x) {
  const length = Math.max(1e-6, Math.sqrt(x.reduce((sum, a) => sum + a * a, 0)));
  x.forEach((a, i) => x[i] = a / length);
}

// The next token's probabilities behind position t.
function probabilities(model, memory, t) {
  const V = model.config.vocab_size, p = memory.logits.slice(t * V, (t + 1) * V);
  weigh(p, "softmax");
  return p;
}

// Mean of −ln p of all tokens but the first, in nats.
function loss(model, memory) {
  const { tokens } = memory;
  let sum = 0;
  for (let t = 1; t < tokens.length; t++) sum -= Math.log(probabilities(model, memory, t - 1)[tokens[t]]);
  return sum / (tokens.length - 1);
}
