// What to replay in a gap: the channel's last clips, newest first, once; or round and round with loop.

export class Replays {
  constructor(channel, { loop }) {
    this.channel = channel;
    this.loop = loop;
    this.played = new Set();
  }

  /** A new clip was shown: the next gap begins again with it. */
  restart() {
    this.played.clear();
  }

  /** The next clip to replay, or null when the gap has shown all of them. */
  next() {
    const isLeft = ({ clip }) => !this.played.has(clip.clip_id);
    if (this.loop && !this.channel.recent.some(isLeft)) this.restart();
    const entry = this.channel.recent.find(isLeft);
    if (!entry) return null;
    this.played.add(entry.clip.clip_id);
    return { ...entry, isReplay: true };
  }

  /** It was not shown after all. */
  putBack({ clip }) {
    this.played.delete(clip.clip_id);
  }
}
