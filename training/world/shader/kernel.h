// Every stride-th frame of many clips: parameters (clips, NUM_PARAMETERS), start seconds (clips) -> bytes (clips, 4, frames, height, width).
HD void draw(const float* P, float start_s, int frame, int y, int x, int height, int* levels) {
    float out[4], fps = 16.f;
    shade(P, start_s + frame / fps, start_s + 2 * ((frame + 1) / 2) / fps, (x + .5f) / height, (y + .5f) / height, 1.f / height, out);
    for (int k = 0; k < 4; k++) levels[k] = (int)(out[k] * 255.f + .5f);
}
#ifdef ON_GPU
extern "C" __global__ void render(const float* P, const float* start_s, unsigned char* out, int clips, int frames, int height, int width, int stride) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x, plane = (long long)height * width;
    if (i >= clips * frames * plane) return;
    int x = i % width, y = i / width % height, frame = i / plane % frames, clip = i / plane / frames, levels[4];
    draw(P + clip * NUM_PARAMETERS, start_s[clip], frame * stride, y, x, height, levels);
    for (int k = 0; k < 4; k++) out[((clip * 4LL + k) * frames + frame) * plane + y * width + x] = levels[k];
}
#else
extern "C" void render(const float* P, const float* start_s, unsigned char* out, int clips, int frames, int height, int width, int stride) {
    int levels[4];
    for (int clip = 0; clip < clips; clip++)
        for (int frame = 0; frame < frames; frame++)
            for (int y = 0; y < height; y++)
                for (int x = 0; x < width; x++) {
                    draw(P + clip * NUM_PARAMETERS, start_s[clip], frame * stride, y, x, height, levels);
                    for (int k = 0; k < 4; k++) out[(((long long)clip * 4 + k) * frames + frame) * height * width + y * width + x] = levels[k];
                }
}
#endif
