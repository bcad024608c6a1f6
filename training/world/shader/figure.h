// A girl or a boy. Local units: 1 is the figure's height, y grows up from the ground, x towards where it faces.
// The head has units of its own, HEAD times larger, so that faces stay readable in small pictures.
#define HEAD 1.16f
struct Pose {
    float t, phase, swing, moving, jump, front_arm, back_arm;
    float x, y;    // of this pixel, in figure units
    float hx, hy;  // of this pixel, in head units from the head's centre
    float sway;    // of loose hair, in head units
    float turn;    // how far the face looks to the side
    float line, head_line, body_pixel, head_pixel;
};
struct Paints { Rgb line, skin, skin_shade, hair, hair_shade, hair_light, clothes, clothes_shade, lower, shoe, eye, white, tint; };

HD Rgb figure_tint(int time_of_day) { return time_of_day == DAY ? rgb(1.f, 1.f, 1.f) : (time_of_day == SUNSET ? rgb(1.f, .86f, .76f) : rgb(.78f, .79f, .96f)); }
HD float stride_rate(int action) { return action == RUN ? 8.4f : 5.2f; }
HD float jump_height(float t, float phase) {
    float z = saturate((fract(t / 1.5f + phase * .159f) - .15f) / .7f);
    return .16f * 4.f * z * (1.f - z);
}

HD Paints paints_of(const float* P) {
    Paints k;
    int boy = (int)P[CHARACTER] == BOY;
    k.tint = figure_tint((int)P[TIME_OF_DAY]);
    k.line = rgb(.18f, .10f, .16f) * k.tint;
    k.skin = rgb(1.f, .88f, .78f) * k.tint; k.skin_shade = rgb(.95f, .74f, .66f) * k.tint;
    k.hair = rgb(P[HAIR_R], P[HAIR_G], P[HAIR_B]) * k.tint; k.hair_shade = k.hair * .74f; k.hair_light = mix(k.hair, k.tint, .38f);
    k.clothes = rgb(P[CLOTHES_R], P[CLOTHES_G], P[CLOTHES_B]) * k.tint; k.clothes_shade = k.clothes * .76f;
    k.lower = (boy ? rgb(.30f, .33f, .46f) : rgb(.24f, .27f, .42f)) * k.tint;
    k.shoe = rgb(.42f, .26f, .20f) * k.tint;
    k.eye = rgb(P[EYE_R], P[EYE_G], P[EYE_B]) * k.tint; k.white = rgb(.98f, .98f, .99f) * k.tint;
    return k;
}
HD void set_arms(Pose& p, int action) {
    p.front_arm = p.back_arm = .16f + .03f * sinf(p.t * 2.f + p.phase);
    if (action == WALK) { p.front_arm = .5f * p.swing; p.back_arm = -.5f * p.swing; }
    if (action == RUN) { p.front_arm = .95f * p.swing; p.back_arm = -.95f * p.swing; }
    if (action == WAVE) { p.front_arm = .18f; p.back_arm = 2.15f + .38f * sinf(p.t * 6.f + p.phase); }
    if (action == JUMP) p.front_arm = p.back_arm = .3f + 10.f * p.jump;
}
HD Pose pose_of(const Canvas& c, const float* P, float t, float u, float v) {
    Pose p;
    int action = (int)P[ACTION], close = (int)P[CLOSE_UP];
    float size = P[SIZE], ground_v = close ? .47f + .80f * size : P[GROUND];
    p.t = t; p.phase = P[PHASE]; p.moving = action == WALK || action == RUN ? 1.f : 0.f;
    float stride = t * stride_rate(action) + p.phase;
    p.swing = sinf(stride);
    p.jump = action == JUMP ? jump_height(t, p.phase) * (close ? .5f : 1.f) : 0.f;
    float bob = p.moving * fabsf(cosf(stride)) * (action == RUN ? .035f : .018f);
    p.x = (u - P[CENTRE]) / size * P[FACING]; p.y = (ground_v - v) / size - p.jump - bob;
    p.hx = (p.x - .012f * sinf(t * 1.1f + p.phase) - p.moving * .015f) / HEAD;
    p.hy = (p.y - .80f - .006f * sinf(t * 2.2f + p.phase)) / HEAD;
    p.sway = (.05f * P[WIND] + .03f * p.moving) * sinf(t * (2.2f + p.moving * 2.f) + p.phase + p.hy * 3.f) - .05f * p.moving - .03f * P[WIND];
    p.turn = p.moving > 0.f ? .055f : 0.f;
    p.body_pixel = c.pixel / size; p.head_pixel = p.body_pixel / HEAD;
    p.line = fmaxf(.013f, 1.15f * p.body_pixel); p.head_line = fmaxf(.013f, 1.15f * p.head_pixel);
    set_arms(p, action);
    return p;
}

HD void back_hair(Canvas& c, const float* P, const Pose& p, const Paints& k) {
    int style = (int)P[HAIR_STYLE];
    float x = p.hx, y = p.hy, cap = circle(x, y, .235f);
    if ((int)P[CHARACTER] == BOY) { outlined(c, fminf(circle(x, y, .232f), box(x, y + .04f, .215f, .10f, .06f)), k.hair_shade, k.line, p.head_line); return; }
    if (style == LONG) {
        float down = saturate(-y / .45f), X = x - p.sway * down, d = fminf(cap, box(X, y + .24f, .20f + .03f * down, .28f, .09f));
        outlined(c, fmaxf(d, -y - .52f + .03f * triangle_wave(X * 9.f)), k.hair_shade, k.line, p.head_line);
        return;
    }
    if (style == SHORT) { outlined(c, fminf(cap, box(x, y + .12f, .225f, .14f, .08f)), k.hair_shade, k.line, p.head_line); return; }
    if (style == TWINTAILS) {
        float X = x - p.sway * saturate((.15f - y) / .5f);
        for (int i = 0; i < 2; i++) {
            float side = i ? 1.f : -1.f;
            float d = fminf(capsule(X, y, side * .20f, .12f, side * .34f, -.12f, .06f, .085f), capsule(X, y, side * .34f, -.12f, side * .33f, -.42f, .085f, .02f));
            outlined(c, d, k.hair, k.line, p.head_line);
            paint(c, d + .045f, k.hair_shade, 1.f);
        }
    } else {
        float X = x - p.sway * 1.3f * saturate((.2f - y) / .5f);
        float d = fminf(capsule(X, y, -.12f, .20f, -.34f, .05f, .07f, .09f), capsule(X, y, -.34f, .05f, -.36f, -.38f, .09f, .02f));
        outlined(c, d, k.hair, k.line, p.head_line);
        paint(c, d + .05f, k.hair_shade, 1.f);
    }
    outlined(c, cap, k.hair_shade, k.line, p.head_line);
}
HD void arm(Canvas& c, const Pose& p, const Paints& k, float shoulder_x, float angle, float reach, Rgb sleeve, Rgb hand, float hand_size) {
    float shoulder_y = .545f, hand_x = shoulder_x + sinf(angle) * reach, hand_y = shoulder_y - cosf(angle) * reach;
    outlined(c, circle(p.x - hand_x, p.y - hand_y, hand_size), hand, k.line, p.line);
    outlined(c, capsule(p.x, p.y, shoulder_x, shoulder_y, mix(shoulder_x, hand_x, .86f), mix(shoulder_y, hand_y, .86f), .042f, .036f), sleeve, k.line, p.line);
}
HD void legs(Canvas& c, const float* P, const Pose& p, const Paints& k) {
    float reach = p.moving * p.swing * ((int)P[ACTION] == RUN ? .85f : .5f), hip = p.moving > 0.f ? .03f : .06f;
    Rgb colour = (int)P[CHARACTER] == BOY ? k.lower : k.skin;
    for (int i = 0; i < 2; i++) {
        float side = i ? 1.f : -1.f, angle = p.moving > 0.f ? -side * reach : side * (.04f + .9f * p.jump), x = side * hip;
        float foot_x = x + sinf(angle) * .28f, foot_y = .30f - cosf(angle) * .26f, knee_x = x + sinf(angle) * .14f, knee_y = .30f - cosf(angle) * .13f;
        if (p.moving > 0.f && angle < 0.f) { foot_x += .10f * angle; foot_y -= .10f * angle; }
        float d = fminf(capsule(p.x, p.y, x, .30f, knee_x, knee_y, .05f, .042f), capsule(p.x, p.y, knee_x, knee_y, foot_x, foot_y, .042f, .034f));
        outlined(c, d, i && p.moving > 0.f ? colour * .85f : colour, k.line, p.line);
        outlined(c, ellipse(p.x - foot_x - .022f, p.y - foot_y + .005f, .056f, .034f), k.shoe, k.line, p.line);
    }
}
HD void dress(Canvas& c, const Pose& p, const Paints& k, float flutter) {
    float y = saturate((.60f - p.y) / .36f), half = .095f + .125f * y * y;
    float d = fmaxf(fabsf(p.x - flutter * y) - half, fmaxf(p.y - .60f, .235f + .012f * cosf((p.x - flutter) * 34.f) - p.y)) * .9f;
    outlined(c, d, k.clothes, k.line, p.line);
    paint(c, fmaxf(d, p.x + .045f - .28f * (p.y - .6f)), k.clothes_shade, 1.f);
    paint(c, fmaxf(d, fabsf(p.y - .43f) - .014f), k.clothes_shade, 1.f);
}
HD void uniform(Canvas& c, const Pose& p, const Paints& k, float flutter) {
    float y = saturate((.42f - p.y) / .16f), d = fmaxf(fabsf(p.x - flutter * y) - (.10f + .085f * y), fmaxf(p.y - .44f, .265f - p.y)) * .85f;
    outlined(c, d, k.lower, k.line, p.line);
    paint(c, fmaxf(d, triangle_wave(p.x * 11.f + .5f) - .22f), k.lower * .72f, .8f);
    d = box(p.x, p.y - .51f, .105f, .095f, .03f);
    outlined(c, d, k.clothes, k.line, p.line);
    paint(c, fmaxf(d, p.x + .05f), k.clothes_shade, 1.f);
    if (p.y > .5f) paint(c, fmaxf(d, fabsf(fabsf(p.x) - (p.y - .50f) * .7f) - .012f), k.white, 1.f);
    outlined(c, fmaxf(fabsf(p.x) - .03f, fabsf(p.y - .535f) - .018f), rgb(.90f, .25f, .28f) * k.tint, k.line, p.line * .6f);
}
HD void jacket(Canvas& c, const Pose& p, const Paints& k, int striped) {
    float d = box(p.x, p.y - .44f, .115f, .165f, .035f);
    outlined(c, d, k.clothes, k.line, p.line);
    paint(c, fmaxf(d, p.x + .055f), k.clothes_shade, 1.f);
    if (striped) paint(c, fmaxf(d, fabsf(p.y - .44f) - .02f), k.white, 1.f);
    else paint(c, fmaxf(d, fabsf(p.x) - .006f), k.clothes_shade, 1.f);
}
HD void body(Canvas& c, const float* P, const Pose& p, const Paints& k) {
    float flutter = .012f * sinf(p.t * 3.f + p.phase) * (P[WIND] + p.moving);
    if (p.moving > 0.f) arm(c, p, k, .05f, p.back_arm, .24f, k.clothes_shade, k.skin_shade, .034f);
    legs(c, P, p, k);
    if ((int)P[CHARACTER] == BOY) jacket(c, p, k, (int)P[OUTFIT]);
    else if ((int)P[OUTFIT]) uniform(c, p, k, flutter);
    else dress(c, p, k, flutter);
    if (p.moving > 0.f) { arm(c, p, k, -.01f, p.front_arm, .24f, k.clothes, k.skin, .036f); return; }
    arm(c, p, k, -.115f, -p.front_arm, .24f, k.clothes, k.skin, .036f);
    int waving = (int)P[ACTION] == WAVE;
    if (!waving) arm(c, p, k, .115f, p.back_arm, .24f, k.clothes, k.skin, .036f);
}

HD float eye_opening(const float* P, float t) {
    if ((int)P[EXPRESSION] == HAPPY) return 0.f;
    float since = fract((t + P[BLINK_START]) / P[BLINK_EVERY]) * P[BLINK_EVERY];
    return 1.f - smooth_ramp(0.f, .07f, since) * (1.f - smooth_ramp(.16f, .26f, since));
}
HD void eye(Canvas& c, const Pose& p, const Paints& k, float x, float y, float a, float opening, int happy) {
    float b = .066f;
    if (opening <= .25f) {
        float arc = fabsf(circle(x, y - .025f + (happy ? .05f : 0.f), .050f)) - .009f;
        paint(c, fmaxf(arc, happy ? -y : y + .005f), k.line, 1.f);
        return;
    }
    float white = ellipse(x, y, a, b * opening), iris = fmaxf(ellipse(x, y - .004f, a * .80f, b * .88f * opening), white);
    paint(c, white - .010f, k.line, 1.f);
    paint(c, white, k.white, 1.f);
    paint(c, iris, k.eye * .55f, 1.f);
    paint(c, fmaxf(iris + .004f, y + .008f), k.eye, 1.f);
    paint(c, ellipse(x, y, a * .36f, b * .42f * opening), k.line, 1.f);
    paint(c, circle(x + .013f, y - .024f * opening, .016f), rgb(1.f, 1.f, 1.f), 1.f);
    paint(c, fmaxf(fabsf(ellipse(x, y + .004f, a + .008f, b * opening + .006f)) - .009f, .018f * opening - y), k.line, 1.f);
}
HD void eyes(Canvas& c, const float* P, const Pose& p, const Paints& k) {
    int fault = (int)P[FACE_FAULT];  // faces drawn wrong on purpose teach the face judge what wrong looks like
    float opening = eye_opening(P, p.t);
    for (int i = 0; i < 2; i++) {
        float side = i ? 1.f : -1.f, apart = fault == FAULT_MERGED_EYES ? .012f : .092f, drop = fault == FAULT_UNEVEN_EYES ? side * .055f : 0.f;
        if (fault == FAULT_NO_EYES || (fault == FAULT_LEFT_EYE_MISSING && i == 0) || (fault == FAULT_RIGHT_EYE_MISSING && i == 1)) continue;
        eye(c, p, k, p.hx - p.turn - side * apart, p.hy + .028f + drop, .046f * (p.moving > 0.f && i ? .87f : 1.f), opening, (int)P[EXPRESSION] == HAPPY);
        paint(c, capsule(p.hx - p.turn, p.hy, side * .055f, .118f, side * .122f, .112f, .007f, .006f), k.hair_shade, 1.f);
    }
}
HD void mouth(Canvas& c, const float* P, const Pose& p, const Paints& k) {
    int expression = (int)P[EXPRESSION];
    float x = p.hx - p.turn, y = p.hy + .118f;
    if (expression == TALKING) {
        float d = ellipse(x, y, .028f, .024f * (.25f + .75f * fabsf(sinf(p.t * 5.f + p.phase))) + .005f);
        paint(c, d - .009f, k.line, 1.f);
        paint(c, d, rgb(.88f, .35f, .35f) * k.tint, 1.f);
    } else if (expression == NEUTRAL) paint(c, capsule(x, y, -.020f, 0.f, .020f, 0.f, .0065f, .0065f), k.line, 1.f);
    else {
        float d = fmaxf(circle(x, y - .014f, .038f), y - .012f);
        paint(c, d - .009f, k.line, 1.f);
        paint(c, d, rgb(.92f, .42f, .42f) * k.tint, 1.f);
    }
}
HD void fringe(Canvas& c, const float* P, const Pose& p, const Paints& k) {
    float x = p.hx, y = p.hy, X = x - p.turn * .6f;
    int boy = (int)P[CHARACTER] == BOY;
    float edge = boy ? .075f - .9f * X * X + .055f * triangle_wave(X * 8.f + .3f) - .01f : .09f - 1.9f * X * X + .040f * triangle_wave(X * 6.5f + .5f) - .005f;
    float d = fmaxf(circle(x, y - .004f, .228f), (edge - y) * .75f);
    if (boy) d = fminf(d, fmaxf(circle(x, y, .225f + .045f * triangle_wave(atan2f(y, x) * 1.75f + .1f)), .07f - y));
    else for (int i = 0; i < 2; i++) { float side = i ? 1.f : -1.f; d = fminf(d, capsule(x, y, side * .205f, .06f, side * .20f, -.17f, .034f, .012f)); }
    outlined(c, d, k.hair, k.line, p.head_line);
    paint(c, fmaxf(d, fmaxf(fabsf(length(x * .9f, y + .02f) - .165f) - .014f - .006f * triangle_wave(x * 16.f), .075f - y)), k.hair_light, 1.f);
    paint(c, fmaxf(d, x + .13f), k.hair_shade, .55f);
}
HD void head(Canvas& c, const float* P, const Pose& p, const Paints& k) {
    float jaw = p.hy < 0.f ? 1.f - 1.25f * p.hy : 1.f;
    outlined(c, (length(p.hx * jaw, p.hy * (p.hy < 0.f ? 1.03f : 1.f)) - .205f) * .9f, k.skin, k.line, p.head_line);
    for (int i = 0; i < 2; i++) paint(c, ellipse(p.hx - p.turn - (i ? .125f : -.125f), p.hy + .085f, .032f, .017f), rgb(1.f, .60f, .58f) * k.tint, .5f);
    eyes(c, P, p, k);
    mouth(c, P, p, k);
    fringe(c, P, p, k);
    int style = (int)P[HAIR_STYLE], ties = (int)P[CHARACTER] == BOY || style == LONG || style == SHORT ? 0 : (style == TWINTAILS ? 2 : 1);
    for (int i = 0; i < ties; i++) {
        float x = p.hx - (ties == 2 ? (i ? .195f : -.195f) : -.13f), y = p.hy - (ties == 2 ? .125f : .20f);
        outlined(c, circle(x, y, .030f), rgb(.95f, .25f, .35f) * k.tint, k.line, p.head_line * .7f);
    }
}

HD void figure(Canvas& c, const float* P, float t, float u, float v) {
    Pose p = pose_of(c, P, t, u, v);
    Paints k = paints_of(P);
    float whole_picture = c.pixel;
    if (!(int)P[CLOSE_UP]) {
        c.pixel = p.body_pixel;
        paint(c, ellipse(p.x, (P[GROUND] - v) / P[SIZE] + .005f, .20f - .2f * p.jump, .03f), rgb(.1f, .1f, .2f), .35f);
    }
    if (fabsf(p.x) < .8f && p.y > -.1f && p.y < 1.25f) {
        c.brush_focus = .4f;
        c.pixel = p.head_pixel; back_hair(c, P, p, k);
        c.pixel = p.body_pixel; body(c, P, p, k);
        c.brush_focus = 1.f;
        c.pixel = p.head_pixel; head(c, P, p, k);
        c.brush_focus = .4f;
        c.pixel = p.body_pixel;
        if ((int)P[ACTION] == WAVE) arm(c, p, k, .13f, p.back_arm, .30f, k.clothes, k.skin, .046f);
    }
    c.pixel = whole_picture;
}
