// model.py in JavaScript, forward only: tokens to logits, with every map on the way, and with edits of the maps.
//
// A model is what lab/page.py writes: config, kind (softmax or softmax1), pairs (whether two maps make a head),
// embedding, and per layer qkv, out, gate, up, down (each {rows, columns, data}), and where it has them lam (one λ per
// head, or one for all), g (one per map: scores are g cos(q, k)) and gain (of the norm of heads, with its factor).
// X, Y and Z have a row per token, one after the other. A map is a list of rows; row t has t + 1 weights.

// As trained: the learned λ of every layer, negative weights kept.
const newEdits = () => ({ lam: [], negative: true });

// Weights come as one character per number, of the levels −43 to 43, and a scale per row.
function unpack({ rows, columns, codes, scales }, alphabet) {
  const levels = new Float32Array(128), data = new Float32Array(rows * columns);
  [...alphabet].forEach((c, i) => levels[c.charCodeAt(0)] = i - (alphabet.length - 1) / 2);
  for (let i = 0; i < data.length; i++) data[i] = levels[codes.charCodeAt(i)] * scales[Math.floor(i / columns)];
  return { rows, columns, data };
}

// X Wᵀ for n rows X, four of them at a time; the last ones may be the same.
function times(X, n, { rows, columns, data }) {
  const Y = new Float32Array(n * rows);
  for (let t = 0; t < n; t += 4) {
    const four = [0, 1, 2, 3].map(i => Math.min(t + i, n - 1)), [x, y, z, u] = four.map(t => t * columns);
    for (let row = 0; row < rows; row++) {
      const w = row * columns;
      let a = 0, b = 0, c = 0, d = 0;
      for (let i = 0; i < columns; i++) {
        const weight = data[w + i];
        a += weight * X[x + i]; b += weight * X[y + i]; c += weight * X[z + i]; d += weight * X[u + i];
      }
      Y[four[0] * rows + row] = a; Y[four[1] * rows + row] = b;
      Y[four[2] * rows + row] = c; Y[four[3] * rows + row] = d;
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

// Rotary positions, in place: halves (a, b) of x become (a cos − b sin, b cos + a sin).
function rotate(x, position) {
  const half = x.length / 2;
  for (let i = 0; i < half; i++) {
    const angle = position * 10000 ** (-i / half), cos = Math.cos(angle), sin = Math.sin(angle);
    const a = x[i], b = x[i + half];
    x[i] = a * cos - b * sin;
    x[i + half] = b * cos + a * sin;
  }
}

function dot(x, y) {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] * y[i];
  return sum;
}

// The weights of a row of scores.
function weigh(S, kind = "softmax") {
  const rest = kind === "softmax1" ? 0 : -Infinity, top = S.reduce((a, b) => Math.max(a, b), rest);
  const e = S.map(s => Math.exp(s - top)), total = e.reduce((a, b) => a + b, Math.exp(rest - top));
  return e.map(a => a / total);
}

// What a layer makes of its normalised input Z: scores, maps, values; per head λ and A; outputs AV, and normalised Y.
function attention(model, layer, Z, n, { lam: given, negative }) {
  const { n_head: H, n_embd: C } = model.config, D = C / H, QKV = times(Z, n, layer.qkv);
  const parts = (i, width) => Array.from({ length: n }, (_, t) =>
    QKV.subarray(3 * C * t + i * width, 3 * C * t + (i + 1) * width));
  const [Q, K] = [0, H].map(first => Array.from({ length: H }, (_, map) => parts(first + map, D)));
  for (const vectors of [...Q, ...K]) vectors.forEach((x, t) => {
    rotate(x, t);
    if (!layer.g) return;
    const length = Math.max(1e-6, Math.sqrt(dot(x, x)));
    x.forEach((a, i) => x[i] = a / length);
  });
  const scale = map => layer.g ? layer.g[map] : 1 / Math.sqrt(D);
  const scores = (map, t) => new Float32Array(t + 1).map((_, j) => scale(map) * dot(Q[map][t], K[map][j]));
  const maps = Q.map((vectors, map) => vectors.map((_, t) => weigh(scores(map, t), model.kind)));
  const heads = model.pairs ? H / 2 : H, E = C / heads;
  const lam = model.pairs ? Array.from({ length: heads }, (_, i) => given ?? layer.lam[i % layer.lam.length]) : null;
  let A = lam ? lam.map((x, i) => maps[2 * i].map((row, t) => row.map((a, j) => a - x * maps[2 * i + 1][t][j]))) : maps;
  if (!negative) A = A.map(rows => rows.map(row => row.map(a => Math.max(0, a))));
  const V = A.map((_, head) => parts(2 * heads + head, E)), AV = new Float32Array(n * C);
  A.forEach((rows, head) => rows.forEach((row, t) => row.forEach((a, j) => {
    const v = V[head][j], at = t * C + head * E;
    for (let i = 0; i < E; i++) AV[at + i] += a * v[i];
  })));
  return { scores, maps, lam, A, V, AV, Y: layer.gain ? normed(AV, n * heads, layer.gain) : AV };
}

// What the model makes of `tokens`, at most block_size of them: what each layer's attention makes, and logits.
function forward(model, tokens, edits = newEdits()) {
  const { n_embd: C } = model.config, n = tokens.length, X = new Float32Array(n * C);
  tokens.forEach((token, t) => X.set(model.embedding.data.subarray(token * C, (token + 1) * C), t * C));
  const add = Y => Y.forEach((y, i) => X[i] += y);
  const layers = model.layers.map((layer, i) => {
    const found = attention(model, layer, normed(X, n), n, { ...edits, lam: edits.lam[i] });
    add(times(found.Y, n, layer.out));
    const Z = normed(X, n), gate = times(Z, n, layer.gate), up = times(Z, n, layer.up);
    add(times(gate.map((x, i) => x / (1 + Math.exp(-x)) * up[i]), n, layer.down));
    return found;
  });
  return { tokens, layers, logits: times(normed(X, n), n, model.embedding) };
}

// The probabilities of the token after position t.
function probabilities({ tokens, logits }, t) {
  const V = logits.length / tokens.length;
  return weigh(logits.subarray(t * V, (t + 1) * V));
}

// Mean of −ln p of all tokens but the first, in nats.
const loss = memory => mean(memory.tokens.slice(1).map((token, t) => -Math.log(probabilities(memory, t)[token])));
