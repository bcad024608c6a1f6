// One pixel of one frame. `t` runs smoothly; `drawn_t` is held for two frames, as animators draw "on twos".
HD void shade(const float* P, float t, float drawn_t, float u, float v, float pixel, float* out) {
    int action = (int)P[ACTION], camera = (int)P[CAMERA], character = (int)P[CHARACTER];
    float speed = character == NOBODY ? 0.f : (action == WALK ? .14f * P[FACING] : (action == RUN ? .30f * P[FACING] : 0.f));
    if (camera == PAN_LEFT) speed -= .13f;
    if (camera == PAN_RIGHT) speed += .13f;
    float zoom = camera == ZOOM_IN ? 1.f + .06f * t : 1.f, U = (u - .857f) / zoom + .857f, V = (v - .52f) / zoom + .52f;
    Canvas c;
    c.pixel = pixel / zoom; c.focus = 0.f; c.brush_focus = 0.f;
    background(c, P, t, U, V, speed * t + P[SCROLL]);
    if (character == GIRL || character == BOY) figure(c, P, drawn_t, U, V);
    else if (character == CAT) cat(c, P, drawn_t, U, V);
    c.pixel = pixel;
    weather(c, P, t, u, v);
    out[0] = saturate(c.colour.r); out[1] = saturate(c.colour.g); out[2] = saturate(c.colour.b); out[3] = saturate(c.focus);
}
