// A cat, seen from the side with its face to the viewer. Local units as in figure.h.
HD void cat_legs(Canvas& c, const float* P, float x, float y, float swing, float jump, Rgb fur, Rgb line, float width) {
    for (int k = 0; k < 4; k++) {
        float hip = (k < 2 ? -.22f : .16f) + (k & 1 ? .07f : 0.f), angle = swing * .6f * (k == 0 || k == 3 ? 1.f : -1.f) + (k < 2 ? -1.f : 1.f) * jump * 2.f;
        outlined(c, capsule(x, y, hip, .22f, hip + sinf(angle) * .18f, .22f - cosf(angle) * .19f, .052f, .045f), k & 1 ? fur * .78f : fur, line, width);
    }
}
HD void cat_head(Canvas& c, const float* P, float t, float hx, float hy, Rgb fur, Rgb line, Rgb tint, float width) {
    float opening = eye_opening(P, t);
    Rgb pink = rgb(1.f, .62f, .66f) * tint, iris = rgb(P[EYE_R], P[EYE_G], P[EYE_B]) * tint;
    c.brush_focus = 1.f;
    for (int k = 0; k < 2; k++) {
        float x = hx - (k ? .115f : -.115f), y = hy - .15f, d = fmaxf(fabsf(x) + y * .62f - .055f, -y - .08f) * .85f;
        outlined(c, d, fur, line, width);
        paint(c, d + .025f, pink, 1.f);
    }
    outlined(c, ellipse(hx, hy, .205f, .175f), fur, line, width);
    for (int k = 0; k < 2; k++) {
        float x = hx - .02f - (k ? .08f : -.08f), y = hy - .01f;
        if (opening <= .25f) { paint(c, fmaxf(fabsf(circle(x, y - .02f, .04f)) - .009f, y), line, 1.f); continue; }
        float d = ellipse(x, y, .044f, .052f * opening);
        paint(c, d - .011f, line, 1.f);
        paint(c, d, iris, 1.f);
        paint(c, ellipse(x, y, .017f, .040f * opening), rgb(.05f, .03f, .08f), 1.f);
        paint(c, circle(x + .013f, y - .017f, .012f), rgb(1.f, 1.f, 1.f), 1.f);
    }
    paint(c, ellipse(hx - .02f, hy + .056f, .020f, .014f), pink, 1.f);
    paint(c, capsule(fabsf(hx - .02f), hy, 0.f, -.075f, .032f, -.092f, .007f, .007f), line, 1.f);
}
HD void cat(Canvas& c, const float* P, float t, float u, float v) {
    int action = (int)P[ACTION], close = (int)P[CLOSE_UP];
    float size = P[SIZE] * (close ? .95f : .80f), ground_v = close ? .98f : P[GROUND], whole_picture = c.pixel;
    float moving = action == WALK || action == RUN ? 1.f : 0.f, stride = t * stride_rate(action) + P[PHASE];
    float jump = action == JUMP ? 1.4f * jump_height(t, P[PHASE]) : 0.f, bob = moving * fabsf(cosf(stride)) * .02f;
    float x = (u - P[CENTRE]) / size * P[FACING], y = (ground_v - v) / size;
    Rgb tint = figure_tint((int)P[TIME_OF_DAY]), fur = rgb(P[HAIR_R], P[HAIR_G], P[HAIR_B]) * tint;
    Rgb line = rgb(.16f, .09f, .14f) * tint * (P[HAIR_R] + P[HAIR_G] + P[HAIR_B] < .75f ? .4f : 1.f);
    c.pixel = whole_picture / size;
    float width = fmaxf(.013f, 1.15f * c.pixel);
    paint(c, ellipse(x, y + .005f, .36f - .1f * jump, .035f), rgb(.1f, .1f, .2f), .35f);
    y -= jump + bob;
    c.brush_focus = .4f;
    float curl = .12f * sinf(t * 2.6f + P[PHASE]);
    outlined(c, fminf(capsule(x, y, -.28f, .30f, -.46f, .42f + curl * .3f, .045f, .04f), capsule(x, y, -.46f, .42f + curl * .3f, -.44f + curl, .64f, .04f, .035f)), fur, line, width);
    cat_legs(c, P, x, y, moving * sinf(stride), jump, fur, line, width);
    float trunk = ellipse(x + .03f, y - .28f, .31f, .145f);
    outlined(c, trunk, fur, line, width);
    paint(c, fmaxf(trunk, y - .22f), fur * .78f, 1.f);
    cat_head(c, P, t, x - .27f, y - .46f - .008f * sinf(t * 2.f + P[PHASE]), fur, line, tint, width);
    c.pixel = whole_picture;
}
