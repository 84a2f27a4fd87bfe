// Replays vectors with onnxruntime's JavaScript API, in Node and in a browser; what is told: see replay.py.

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, int32: Int32Array, uint32: Uint32Array,
  int64: BigInt64Array, uint64: BigUint64Array, bool: Uint8Array,
};

// ort: the library; read: gives a file of the folder as an ArrayBuffer.
export async function replay(ort, read, name, options) {
  const session = await ort.InferenceSession.create(new Uint8Array(await read(`${name}.onnx`)), options);
  const index = JSON.parse(new TextDecoder().decode(await read(`${name}/vectors.json`)));
  const tensor = async (told) => new ARRAYS[told.dtype](await read(`${name}/${told.file}`));
  let worst = 0, control = 0;
  for (const call of index.calls) {
    const feeds = {};
    for (const [input, told] of Object.entries(call.feeds)) feeds[input] = new ort.Tensor(told.dtype, await tensor(told), told.shape);
    worst = Math.max(worst, await furthest(session, feeds, call.outputs, tensor, index));
    const seed = new ort.Tensor('int64', BigInt64Array.of(feeds.seed.data[0] ^ 1n), []);
    control = Math.max(control, await furthest(session, { ...feeds, seed }, call.outputs, tensor, index));
  }
  // JSON has no infinity: it becomes null.
  return JSON.stringify({ artifact: name, worst, same: worst === 0, control });
}

async function furthest(session, feeds, expected, tensor, { atol, rtol }) {
  const given = await session.run(feeds, Object.keys(expected));
  let worst = 0;
  for (const [name, told] of Object.entries(expected)) {
    const right = await tensor(told), { data, dims, type } = given[name];
    if (type !== told.dtype || String(dims) !== String(told.shape)) return Infinity;
    for (let i = 0; i < right.length; i++) {
      const y = Number(data[i]), e = Number(right[i]);
      if (data[i] === right[i] || (Number.isNaN(y) && Number.isNaN(e))) continue;
      const ratio = Math.abs(y - e) / (atol + rtol * Math.abs(e));
      worst = Math.max(worst, Number.isFinite(ratio) ? ratio : Infinity);
    }
  }
  return worst;
}
