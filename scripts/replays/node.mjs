// node node.mjs NODE_MODULES FOLDER NAME...: replays vectors with onnxruntime-node.
import fs from 'node:fs/promises';
import { createRequire } from 'node:module';
import { replay } from './replay.mjs';

const [modules, folder, ...names] = process.argv.slice(2);
const ort = createRequire(`${modules}/`)('onnxruntime-node');
const read = async (file) => {
  const bytes = await fs.readFile(`${folder}/${file}`);
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
};
const options = { executionProviders: ['cpu'], intraOpNumThreads: 1, logSeverityLevel: 3 };
for (const name of names) console.log(await replay(ort, read, name, options));
