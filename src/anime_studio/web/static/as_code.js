// A job's request as a program would send it: a curl command and a few lines of Python.

/** The fields that were asked for; what the recipe sets by itself is left out. */
function requestOf({ request }) {
  const { prompt, negative_prompt: negative, seed, duration, resolution, num_inference_steps: steps, guidance_scale: guidance } = request;
  const fields = { prompt, seed, duration, resolution, num_inference_steps: steps };
  if (guidance !== null) fields.guidance_scale = guidance;
  if (guidance !== null && negative) fields.negative_prompt = negative;
  return fields;
}

const address = () => new URL(".", document.baseURI).href.replace(/\/$/, "");
const forShell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
// JSON's strings and numbers are Python's too.
const forPython = (value) => JSON.stringify(value);

export const asCurl = (job) =>
  `curl -s ${address()}/generate -H 'content-type: application/json' -d ${forShell(JSON.stringify(requestOf(job)))}`;

export function asPython(job) {
  const { prompt, ...options } = requestOf(job);
  return [
    "from anime_studio.client import StudioClient",
    "",
    `with StudioClient(${forPython(address())}) as studio:`,
    "    job = studio.generate(",
    `        ${forPython(prompt)},`,
    ...Object.entries(options).map(([name, value]) => `        ${name}=${forPython(value)},`),
    "    )",
    '    studio.download(job, "clip.mp4")',
    "",
  ].join("\n");
}
