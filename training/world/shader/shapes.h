// Arithmetic, signed distances and the canvas. Scalar code that g++ and NVRTC both compile.
// Lengths are in picture heights: u grows to the right in [0, 12/7), v grows down in [0, 1].
struct Rgb { float r, g, b; };
struct Canvas {
    Rgb colour;
    float pixel;  // size of a pixel in the units of the distances being painted
    float focus;  // how much a viewer looks here: 0 background, 0.4 body, 1 head
    float brush_focus;
};

HD Rgb rgb(float r, float g, float b) { Rgb c; c.r = r; c.g = g; c.b = b; return c; }
HD float clamp(float x, float low, float high) { return x < low ? low : (x > high ? high : x); }
HD float saturate(float x) { return clamp(x, 0.f, 1.f); }
HD float mix(float a, float b, float t) { return a + (b - a) * t; }
HD Rgb mix(Rgb a, Rgb b, float t) { return rgb(mix(a.r, b.r, t), mix(a.g, b.g, t), mix(a.b, b.b, t)); }
HD Rgb operator*(Rgb a, Rgb b) { return rgb(a.r * b.r, a.g * b.g, a.b * b.b); }
HD Rgb operator*(Rgb a, float k) { return rgb(a.r * k, a.g * k, a.b * k); }
HD float smooth_ramp(float from, float to, float x) { float t = saturate((x - from) / (to - from)); return t * t * (3.f - 2.f * t); }
HD float fract(float x) { return x - floorf(x); }
HD float triangle_wave(float x) { return fabsf(fract(x) * 2.f - 1.f); }
HD float length(float x, float y) { return sqrtf(x * x + y * y); }

// A hash of two floats in [0, 1), after "hash without sine" (D. Hoskins, 2014).
HD float hash(float x, float y) {
    float a = fract(x * 0.1031f), b = fract(y * 0.1030f), c = fract(x * 0.0973f);
    float d = a * (b + 33.33f) + b * (c + 33.33f) + c * (a + 33.33f);
    a += d; b += d; c += d;
    return fract((a + b) * c);
}

// Signed distances: negative inside. The ellipse and the triangles are first-order approximations.
HD float circle(float x, float y, float radius) { return length(x, y) - radius; }
HD float ellipse(float x, float y, float a, float b) {
    float k = length(x / a, y / b), gradient = length(x / (a * a), y / (b * b));
    return gradient < 1e-6f ? -fminf(a, b) : k * (k - 1.f) / gradient;
}
HD float box(float x, float y, float a, float b, float round) {
    float dx = fabsf(x) - a + round, dy = fabsf(y) - b + round;
    return length(fmaxf(dx, 0.f), fmaxf(dy, 0.f)) + fminf(fmaxf(dx, dy), 0.f) - round;
}
HD float capsule(float x, float y, float ax, float ay, float bx, float by, float r0, float r1) {
    float px = x - ax, py = y - ay, vx = bx - ax, vy = by - ay;
    float along = saturate((px * vx + py * vy) / (vx * vx + vy * vy + 1e-9f));
    return length(px - vx * along, py - vy * along) - mix(r0, r1, along);
}

HD void paint(Canvas& c, float distance, Rgb colour, float alpha) {
    float cover = saturate(0.5f - distance / c.pixel) * alpha;
    c.colour = mix(c.colour, colour, cover);
    c.focus = mix(c.focus, fmaxf(c.focus, c.brush_focus), cover);
}
HD void outlined(Canvas& c, float distance, Rgb colour, Rgb line, float width) {
    paint(c, distance - width, line, 1.f);
    paint(c, distance, colour, 1.f);
}
