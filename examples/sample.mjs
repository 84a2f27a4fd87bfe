// node sample.mjs FORECASTER.onnx READINGS.csv: mean, std and 90 % interval of what follows the last window of readings.
//
// npm install --ignore-scripts onnxruntime-node     (its CPU library comes along; the script would fetch one for GPUs)
import fs from 'node:fs';
import ort from 'onnxruntime-node';

const SAMPLES = 100;
const [artifact, csv] = process.argv.slice(2);
if (!csv) throw Error('usage: node sample.mjs FORECASTER.onnx READINGS.csv');
const session = await ort.InferenceSession.create(artifact, { executionProviders: ['cpu'], intraOpNumThreads: 1 });
const [input] = session.inputNames, [output] = session.outputNames;
const [, steps, features] = session.inputMetadata[0].shape; // [batch, steps, features]

// Lines of numbers; a header is passed over.
const lines = fs.readFileSync(csv, 'utf8').trim().split(/\r?\n/).map((line) => line.split(',').map(Number));
const readings = lines.filter((line) => line.every(Number.isFinite)).flat();
if (!(readings.length >= steps * features)) throw Error(`${csv} is shorter than what ${artifact} takes, ${steps} lines of ${features}`);

const whole = (number) => new ort.Tensor('int64', BigInt64Array.of(BigInt(number)), [1]); // integers are BigInt
const answer = await session.run({
  [input]: new ort.Tensor('float32', Float32Array.from(readings.slice(-steps * features)), [1, steps, features]),
  seed: whole(7), rows: whole(0), num_samples: whole(SAMPLES), first_sample: whole(0),
});

const { data } = answer[output], size = data.length / SAMPLES; // [samples, 1, ...]
const quantile = (sorted, q) => { // linear between samples, as numpy's
  const at = q * (sorted.length - 1), i = Math.min(Math.floor(at), sorted.length - 2);
  return sorted[i] + (at - i) * (sorted[i + 1] - sorted[i]);
};
const show = (number) => Number(number.toPrecision(6));
for (let i = 0; i < size; i++) {
  const drawn = Float64Array.from({ length: SAMPLES }, (_, t) => data[t * size + i]).sort();
  const mean = drawn.reduce((sum, number) => sum + number) / SAMPLES;
  const std = Math.sqrt(drawn.reduce((sum, number) => sum + (number - mean) ** 2, 0) / (SAMPLES - 1));
  const [low, high] = [0.05, 0.95].map((q) => show(quantile(drawn, q)));
  console.log(`${output}[${i}] mean ${show(mean)} std ${show(std)} 90 % of the samples from ${low} to ${high}`);
}
