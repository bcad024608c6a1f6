// Sky, clouds and the six scenes. `scroll` is how far the camera has moved to the right.
struct Light { Rgb top, bottom, tint, line; int overcast, snowy; };

HD Light light_of(const float* P) {
    int time_of_day = (int)P[TIME_OF_DAY], weather = (int)P[WEATHER];
    Light l;
    if (time_of_day == DAY) { l.top = rgb(.22f, .52f, .95f); l.bottom = rgb(.74f, .91f, 1.f); l.tint = rgb(1.f, 1.f, 1.f); }
    else if (time_of_day == SUNSET) { l.top = rgb(.48f, .28f, .58f); l.bottom = rgb(1.f, .62f, .32f); l.tint = rgb(1.f, .74f, .60f); }
    else { l.top = rgb(.03f, .04f, .20f); l.bottom = rgb(.14f, .20f, .46f); l.tint = rgb(.34f, .40f, .70f); }
    l.overcast = weather == RAIN || weather == SNOW;
    l.snowy = weather == SNOW;
    if (l.overcast) {
        Rgb grey = time_of_day == DAY ? rgb(.62f, .68f, .75f) : (time_of_day == SUNSET ? rgb(.62f, .46f, .46f) : rgb(.10f, .12f, .22f));
        l.top = mix(l.top, grey, .75f); l.bottom = mix(l.bottom, grey, .6f); l.tint = l.tint * .88f;
    }
    l.line = rgb(.20f, .18f, .28f) * l.tint;
    return l;
}
HD Rgb lit(Light l, float r, float g, float b) { return rgb(r, g, b) * l.tint; }
HD Rgb ground(Light l, float r, float g, float b) {
    Rgb c = rgb(r, g, b);
    return (l.snowy ? mix(c, rgb(.93f, .96f, 1.f), .75f) : c) * l.tint;
}
HD float sun_u(const float* P) { return .2f + P[SUN] * (12.f / 7.f - .4f); }

HD void stars(Canvas& c, const float* P, float t, float u, float v) {
    float cell = .12f, seed = P[SEED], column = floorf(u / cell), row = floorf(v / cell), h = hash(column + seed, row + 7.f);
    if (h < .45f || v > .55f) return;
    float dx = u - (column + .2f + .6f * hash(column, row + seed)) * cell, dy = v - (row + .2f + .6f * hash(row + 3.f, column + seed)) * cell;
    paint(c, circle(dx, dy, .008f), rgb(1.f, 1.f, .9f), .6f + .4f * sinf(t * 3.f + h * 40.f));
}
HD void sun_or_moon(Canvas& c, const float* P, float u, float v) {
    int time_of_day = (int)P[TIME_OF_DAY];
    float x = u - sun_u(P);
    if (time_of_day == DAY) { paint(c, circle(x, v - .16f, .075f), rgb(1.f, .98f, .75f), 1.f); return; }
    float d = time_of_day == SUNSET ? circle(x, v - .44f, .13f) : circle(x, v - .18f, .085f);
    Rgb glow = time_of_day == SUNSET ? rgb(1.f, .8f, .45f) : rgb(.6f, .65f, .9f);
    float strength = time_of_day == SUNSET ? .5f : .4f, falloff = time_of_day == SUNSET ? 7.f : 12.f;
    c.colour = mix(c.colour, glow, strength * expf(-fmaxf(d, 0.f) * falloff));
    paint(c, d, time_of_day == SUNSET ? rgb(1.f, .90f, .55f) : rgb(1.f, .97f, .80f), 1.f);
}
HD void clouds(Canvas& c, const float* P, Light l, float t, float u, float v, float scroll) {
    int time_of_day = (int)P[TIME_OF_DAY];
    Rgb bright = time_of_day == DAY ? rgb(1.f, 1.f, 1.f) : (time_of_day == SUNSET ? rgb(1.f, .72f, .62f) : rgb(.22f, .27f, .52f));
    Rgb shade = time_of_day == DAY ? rgb(.80f, .88f, .97f) : (time_of_day == SUNSET ? rgb(.85f, .50f, .52f) : rgb(.15f, .19f, .40f));
    if (l.overcast) { bright = mix(bright, l.bottom, .5f); shade = mix(shade, l.bottom, .5f); }
    float seed = P[SEED], x = u + scroll * .08f + t * .03f + seed, cell = .75f;
    for (int k = -1; k <= 1; k++) {
        float id = floorf(x / cell) + k;
        if (hash(id, seed + 5.f) < .25f) continue;
        float s = .8f + .5f * hash(id, seed + 3.f);
        float X = (x - (id + .3f + .4f * hash(id, seed + 1.f)) * cell) / s, Y = (v - .10f - .20f * hash(id, seed + 2.f)) / s;
        float d = fminf(fminf(circle(X, Y, .07f), circle(X - .09f, Y - .02f, .055f)), fminf(circle(X + .09f, Y - .02f, .05f), box(X, Y - .045f, .15f, .03f, .03f)));
        d = fmaxf(d, Y - .07f) * s;
        float top = fminf(fminf(circle(X + .01f, Y + .015f, .06f), circle(X - .085f, Y - .005f, .045f)), circle(X + .09f, Y, .04f)) * s;
        paint(c, d, shade, 1.f);
        paint(c, fmaxf(d, top), bright, 1.f);
    }
}

HD void meadow(Canvas& c, const float* P, Light l, float u, float v, float scroll) {
    float seed = P[SEED], x = u + scroll * .3f + seed;
    paint(c, .50f + .05f * sinf(x * 2.1f) + .03f * sinf(x * 4.7f + 1.f) - v, ground(l, .45f, .72f, .42f), 1.f);
    x = u + scroll * .6f + seed * 1.7f;
    outlined(c, .60f + .035f * sinf(x * 2.7f + 2.f) - v, ground(l, .50f, .80f, .38f), l.line, .008f);
    x = u + scroll + seed * .3f;
    paint(c, .72f + .012f * sinf(x * 5.f) - v, ground(l, .60f, .88f, .40f), 1.f);
    if (v < .68f || l.snowy) return;
    float cell = .12f, column = floorf(x / cell), row = floorf(v / cell), h = hash(column + seed, row);
    float dx = (x / cell - column - .5f - .4f * (h - .5f)) * cell, dy = (v / cell - row - .5f - .4f * (hash(row, column) - .5f)) * cell;
    if (h < .5f) return;
    Rgb petal = h > .85f ? rgb(1.f, .95f, .4f) : (h > .7f ? rgb(1.f, .55f, .7f) : rgb(1.f, 1.f, 1.f));
    paint(c, circle(dx, dy, .022f), petal * l.tint, 1.f);
    paint(c, circle(dx, dy, .009f), lit(l, 1.f, .75f, .2f), 1.f);
}
HD void beach(Canvas& c, const float* P, Light l, float t, float u, float v, float scroll) {
    float seed = P[SEED], x = u + scroll * .25f, horizon = .46f;
    if (v > horizon - .01f) {
        paint(c, horizon - v, mix(lit(l, .16f, .58f, .82f), lit(l, .30f, .74f, .88f), saturate((v - horizon) / .2f)), 1.f);
        for (int i = 0; i < 4; i++) {
            float wave = sinf(x * (9.f - i) + t * (1.2f + .2f * i) + i * 2.1f + seed);
            float d = fabsf(v - horizon - .035f - .05f * i - .006f * sinf(x * 14.f + t * 2.f)) - .0055f - .001f * i;
            if (wave > .15f) paint(c, d, lit(l, .85f, .96f, 1.f), .85f * saturate((wave - .15f) * 4.f));
        }
        if ((int)P[TIME_OF_DAY] == SUNSET && !l.overcast)
            paint(c, fabsf(u - sun_u(P)) - .05f - .04f * triangle_wave(v * 16.f - t * .8f), rgb(1.f, .85f, .5f), .55f);
    }
    float shore = .68f + .018f * sinf(t * 1.3f + seed) + .012f * sinf((u + scroll) * 4.f + seed);
    paint(c, shore - .02f - v, lit(l, .96f, .99f, 1.f), 1.f);
    paint(c, shore - v, ground(l, .98f, .86f, .62f), 1.f);
    paint(c, .80f + .02f * sinf((u + scroll) * 3.f) - v, ground(l, .95f, .80f, .54f), 1.f);
    float X = u + scroll + seed, cell = .26f, column = floorf(X / cell), row = floorf(v / .1f), h = hash(column, row + seed);
    if (v > .8f && h > .7f)
        outlined(c, ellipse((X / cell - column - .5f) * cell, (v / .1f - row - .5f) * .1f, .024f, .016f), h > .85f ? lit(l, 1.f, .7f, .7f) : lit(l, .95f, .95f, .9f), l.line, .006f);
}
HD Rgb window_colour(int time_of_day, float h) {
    if (time_of_day == NIGHT) return h > .4f ? rgb(1.f, .88f, .45f) : rgb(.12f, .14f, .28f);
    if (time_of_day == SUNSET) return h > .6f ? rgb(1.f, .85f, .5f) : rgb(.45f, .40f, .50f);
    return rgb(.62f, .80f, .92f);
}
HD void city(Canvas& c, const float* P, Light l, float u, float v, float scroll) {
    float seed = P[SEED];
    for (int layer = 0; layer < 2; layer++) {
        float x = u + scroll * (layer ? .45f : .2f) + seed * (layer + 1.f), width = layer ? .34f : .26f, id = floorf(x / width);
        float h = hash(id, seed + layer * 9.f), base = .70f, height = (layer ? .26f : .38f) + (layer ? .20f : .16f) * h;
        float across = (x / width - id - .5f) * width;
        float d = box(across, v - base + height * .5f, width * .5f - (layer ? .014f : .008f), height * .5f, .004f);
        Rgb wall = !layer ? rgb(.56f, .62f, .74f) : (h > .66f ? rgb(.85f, .70f, .62f) : (h > .33f ? rgb(.70f, .74f, .82f) : rgb(.88f, .84f, .74f)));
        outlined(c, d, wall * l.tint, l.line, layer ? .008f : .005f);
        if (d > -.014f) continue;
        float w = width / 3.5f, tall = .095f, column = floorf((across + width * .5f) / w), row = floorf((v - base + height) / tall);
        float wx = ((across + width * .5f) / w - column - .5f) * w, wy = ((v - base + height) / tall - row - .5f) * tall;
        paint(c, box(wx, wy, .026f, .028f, .003f), window_colour((int)P[TIME_OF_DAY], hash(id * 7.f + column, row + seed + layer)), 1.f);
    }
    float x = u + scroll;
    paint(c, .70f - v, ground(l, .78f, .76f, .74f), 1.f);
    paint(c, fabsf(v - .705f) - .006f, l.line, 1.f);
    paint(c, .86f - v, ground(l, .42f, .43f, .48f), 1.f);
    paint(c, fabsf(v - .862f) - .006f, l.line, 1.f);
    paint(c, fmaxf(fabsf(v - .93f) - .012f, triangle_wave(x * 1.6f + seed) > .55f ? 1.f : -1.f), lit(l, .95f, .95f, .9f), 1.f);
    float slab = .2f, lean = (fract(x / slab) - .5f) * slab + (v - .78f) * .3f;
    if (v > .71f && v < .855f) paint(c, fabsf(lean) - .004f, lit(l, .62f, .60f, .60f), 1.f);
}
HD void forest(Canvas& c, const float* P, Light l, float t, float u, float v, float scroll) {
    float seed = P[SEED], far = (u + scroll * .2f);
    paint(c, .30f + .05f * sinf(far * 5.f + seed) + .03f * sinf(far * 11.f) - v, ground(l, .30f, .58f, .42f), 1.f);
    paint(c, .70f - v, ground(l, .42f, .70f, .34f), 1.f);
    for (int layer = 0; layer < 2; layer++) {
        float x = u + scroll * (layer ? .6f : .35f) + seed * (layer + 2.f), gap = layer ? .55f : .34f, s = layer ? 1.f : .62f, foot = layer ? .75f : .70f, width = layer ? .009f : .005f;
        for (int k = -1; k <= 1; k++) {
            float id = floorf(x / gap) + k, h = hash(id, seed + layer * 4.f), X = x - (id + .5f + .3f * (h - .5f)) * gap;
            float flare = .012f * fmaxf(0.f, v - foot + .06f) * 8.f * s;
            outlined(c, box(X, v - foot + .22f * s, .032f * s + flare, .22f * s, .005f), layer ? lit(l, .52f, .36f, .26f) : lit(l, .42f, .32f, .28f), l.line, width);
            X -= .008f * sinf(t * 1.4f + id) * P[WIND];
            float Y = v - foot + .52f * s;
            float crown = fminf(fminf(circle(X, Y + .03f * s, .17f * s), circle(X - .14f * s, Y - .05f * s, .12f * s)), circle(X + .14f * s, Y - .05f * s, .12f * s));
            outlined(c, crown, layer ? ground(l, .32f, .66f, .30f) : ground(l, .24f, .52f, .32f), l.line, width);
            float bright = fminf(circle(X + .03f * s, Y + .06f * s, .11f * s), circle(X + .14f * s, Y - .02f * s, .06f * s));
            if (layer) paint(c, fmaxf(crown, bright), ground(l, .48f, .80f, .38f), 1.f);
        }
    }
    paint(c, .74f + .01f * sinf((u + scroll) * 6.f) - v, ground(l, .50f, .76f, .36f), 1.f);
    paint(c, fabsf(v - .86f - .01f * sinf((u + scroll) * 3.f + seed)) - .06f, ground(l, .80f, .70f, .48f), 1.f);
}
HD void mountains(Canvas& c, const float* P, Light l, float t, float u, float v, float scroll) {
    float seed = P[SEED], x = u + scroll * .12f + seed;
    for (int layer = 0; layer < 2; layer++) {
        float f = layer ? 1.25f : .8f, top = layer ? .26f : .14f;
        float d = (top + .34f - triangle_wave(x * f + layer * .37f) * .30f - .06f * triangle_wave(x * f * 3.1f + .2f) - v) * .75f;
        outlined(c, d, layer ? ground(l, .42f, .50f, .66f) : ground(l, .52f, .60f, .78f), l.line, layer ? .007f : 0.f);
        paint(c, fmaxf(d, v - top - .13f - .02f * triangle_wave(x * f * 9.f)), lit(l, .97f, .98f, 1.f), 1.f);
    }
    paint(c, .54f - v, lit(l, .28f, .60f, .80f), 1.f);
    for (int i = 0; i < 3; i++) {
        float wave = sinf((u + scroll * .3f) * (10.f - 2.f * i) + t * .9f + i * 1.7f);
        if (wave > .3f) paint(c, fabsf(v - .57f - .04f * i) - .005f, lit(l, .75f, .92f, 1.f), .8f * saturate((wave - .3f) * 4.f));
    }
    float bank = .68f + .012f * sinf((u + scroll) * 4.f + seed) - v;
    outlined(c, bank, ground(l, .56f, .80f, .42f), l.line, .007f);
    float X = u + scroll, gap = .18f, id = floorf(X / gap);
    paint(c, capsule(X - (id + .5f) * gap, v - .80f - .1f * hash(id, seed), 0.f, 0.f, .014f, -.034f, .008f, .003f), ground(l, .36f, .62f, .30f), 1.f);
}
HD void shrine(Canvas& c, const float* P, Light l, float u, float v, float scroll) {
    float seed = P[SEED], far = u + scroll * .2f;
    paint(c, .34f + .06f * sinf(far * 4.f + seed) + .03f * sinf(far * 9.f + 2.f) - v, ground(l, .28f, .52f, .40f), 1.f);
    paint(c, .66f - v, ground(l, .62f, .74f, .46f), 1.f);
    float X = u - .35f - P[GATE] + scroll * .5f;
    X -= 2.6f * floorf(X / 2.6f + .5f);
    Rgb red = lit(l, .88f, .22f, .16f), dark = lit(l, .25f, .18f, .22f);
    outlined(c, box(fabsf(X) - .23f - .02f * (v - .4f), v - .46f, .030f, .25f, .004f), red, l.line, .008f);
    outlined(c, box(X, v - .32f, .30f, .020f, .003f), red, l.line, .008f);
    outlined(c, box(X, v - .36f, .018f, .04f, .002f), red, l.line, .006f);
    float curved = v - .225f + .18f * X * X;
    outlined(c, box(X, curved, .40f, .026f, .004f), dark, l.line, .008f);
    outlined(c, box(X, curved - .030f, .36f, .018f, .003f), red, l.line, .006f);
    for (int k = 0; k < 2; k++) {
        float x = X - (k ? .52f : -.52f);
        outlined(c, box(x, v - .62f, .020f, .07f, .004f), lit(l, .72f, .72f, .74f), l.line, .007f);
        outlined(c, box(x, v - .55f, .045f, .028f, .01f), (int)P[TIME_OF_DAY] != DAY ? rgb(1.f, .85f, .45f) : lit(l, .82f, .82f, .84f), l.line, .007f);
    }
    paint(c, .72f - v, ground(l, .76f, .74f, .72f), 1.f);
    paint(c, fabsf(v - .722f) - .005f, l.line, 1.f);
    if (v < .735f) return;
    float slab = .28f, tall = .09f, row = floorf(v / tall), across = fract((u + scroll) / slab + .5f * row) * slab;
    paint(c, fminf(fabsf(across - .5f * slab) - .004f, fabsf(fract(v / tall) - .5f) * tall - .004f), ground(l, .60f, .58f, .58f), .8f);
}

HD void background(Canvas& c, const float* P, float t, float u, float v, float scroll) {
    Light l = light_of(P);
    int scene = (int)P[SCENE];
    c.colour = mix(l.top, l.bottom, saturate(v / .62f));
    if (!l.overcast) {
        if ((int)P[TIME_OF_DAY] == NIGHT) stars(c, P, t, u, v);
        sun_or_moon(c, P, u, v);
    }
    clouds(c, P, l, t, u, v, scroll);
    if (scene == MEADOW) meadow(c, P, l, u, v, scroll);
    else if (scene == BEACH) beach(c, P, l, t, u, v, scroll);
    else if (scene == CITY) city(c, P, l, u, v, scroll);
    else if (scene == FOREST) forest(c, P, l, t, u, v, scroll);
    else if (scene == MOUNTAINS) mountains(c, P, l, t, u, v, scroll);
    else shrine(c, P, l, u, v, scroll);
}
