// Three layers of particles between the viewer and the scene, near ones larger and faster.
struct Fall { float speed, cell, drift; };

HD Fall fall_of(int weather, float depth) {
    Fall f;
    if (weather == RAIN) { f.speed = .80f * depth; f.cell = .24f * depth; f.drift = .11f * depth; }
    else if (weather == SNOW) { f.speed = .16f * depth; f.cell = .22f * depth; f.drift = .03f; }
    else if (weather == FIREFLIES) { f.speed = -.03f; f.cell = .28f * depth; f.drift = .02f; }
    else { f.speed = .17f * depth; f.cell = .27f * depth; f.drift = .13f * depth; }
    return f;
}
HD void firefly(Canvas& c, float t, float dx, float dy, float h, float h2) {
    float x = dx + .03f * sinf(t * 1.1f + h * 30.f), y = dy + .03f * cosf(t * .9f + h2 * 30.f), glow = .55f + .45f * sinf(t * 2.4f + h * 50.f), r = length(x, y);
    c.colour = mix(c.colour, rgb(.95f, 1.f, .45f), .55f * glow * expf(-r * r * 1300.f));
    paint(c, r - .012f, rgb(1.f, 1.f, .65f), glow);
}
HD void flake(Canvas& c, int petals, float t, float dx, float dy, float h, float h2, float depth, float dim) {
    float a = t * (1.2f + h) + h2 * 6.28f, x = dx * cosf(a) - dy * sinf(a), y = dx * sinf(a) + dy * cosf(a);
    Rgb leaf = h2 > .6f ? rgb(.92f, .30f, .15f) : (h2 > .3f ? rgb(.96f, .58f, .14f) : rgb(.80f, .42f, .14f));
    Rgb petal = h2 > .5f ? rgb(1.f, .74f, .84f) : rgb(1.f, .62f, .76f);
    paint(c, ellipse(x, y, (petals ? .020f : .026f) * depth, (petals ? .012f : .014f) * depth), (petals ? petal : leaf) * dim, 1.f);
}
HD void weather(Canvas& c, const float* P, float t, float u, float v) {
    int kind = (int)P[WEATHER];
    if (kind == CLEAR) return;
    float seed = P[SEED], dim = (int)P[TIME_OF_DAY] == NIGHT ? .75f : 1.f;
    c.brush_focus = 0.f;
    for (int layer = 0; layer < 3; layer++) {
        float depth = 1.f + .45f * layer;
        Fall f = fall_of(kind, depth);
        float x = u - f.drift * t + layer * 3.17f + seed, y = v - f.speed * t + layer * 1.7f;
        if (kind != RAIN) x += .03f * sinf(t * 1.3f + y * 6.f + layer);
        float column = floorf(x / f.cell), row = floorf(y / f.cell), h = hash(column + seed, row + layer * 17.f), h2 = hash(row + seed * 2.f, column + layer * 5.f);
        float dx = (x / f.cell - column - .5f - .4f * (h - .5f)) * f.cell, dy = (y / f.cell - row - .5f - .4f * (h2 - .5f)) * f.cell;
        if (kind == RAIN) paint(c, capsule(dx, dy, -.008f * depth, -.058f * depth, .008f * depth, .058f * depth, .0055f, .0055f), rgb(.80f, .90f, 1.f) * dim, .75f);
        else if (kind == SNOW) { if (h > .15f) paint(c, circle(dx, dy, .014f * depth + .006f * h2), rgb(1.f, 1.f, 1.f) * mix(dim, 1.f, .5f), .95f); }
        else if (kind == FIREFLIES) { if (h > .25f) firefly(c, t, dx, dy, h, h2); }
        else if (h > .2f) flake(c, kind == PETALS, t, dx, dy, h, h2, depth, dim);
    }
}
