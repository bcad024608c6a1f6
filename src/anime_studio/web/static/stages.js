// The one vocabulary of the stages: on the studio page, /status and the overlay. The report and the command line
// have the same words (core/stage_words.py; a test compares the two).

export const STAGE_WORDS = {
  queue: "Waiting",
  start: "Waking",
  text: "Reading",
  denoise: "Drawing",
  decode: "Developing",
  upscale: "Sharpening",
  store: "Storing",
  total: "In all",
};

/** What a job is doing, in one or a few words: "Drawing, step 2 of 3". Works for a Job and for an UpcomingClip. */
export function stageWords({ state, stage, progress, queue_position: ahead }) {
  if (state === "queued") return ahead ? `${STAGE_WORDS.queue}, ${ahead} ahead` : "Next in line";
  if (stage === "starting" || !stage) return STAGE_WORDS.start;
  if (stage !== "denoise") return STAGE_WORDS[stage] ?? stage;
  const { step, total_steps: total } = progress;
  return `${STAGE_WORDS.denoise}, step ${Math.min(step + 1, total)} of ${total}`;
}
