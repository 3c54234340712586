// Pictures of a mesh: orthographic, a z-buffer, light at the vertices (Gouraud), back faces left out.

#include <math.h>
#include <stdint.h>
#include <string.h>

// positions [frames, vertices, 3] in pixels of the picture before it is halved: x right, y down, z towards the viewer.
// triangles [faces, 3]. albedo, ambient [vertices] from 0 to 1. light [3] of length 1, towards the light.
// normals [vertices, 3], depth and shade [2 side * 2 side] are scratch. out [frames, side, side].
void rasterise(const float *positions, const int32_t *triangles, const float *albedo, const float *ambient,
               const float *light, float background, long frames, long vertices, long faces, long side, float *normals, float *depth,
               float *shade, uint8_t *out) {
    const long wide = 2 * side;
    for (long t = 0; t < frames; t++) {
        const float *p = positions + t * vertices * 3;
        memset(normals, 0, sizeof(float) * vertices * 3);
        for (long f = 0; f < faces; f++) {
            const float *a = p + 3 * triangles[3 * f], *b = p + 3 * triangles[3 * f + 1], *c = p + 3 * triangles[3 * f + 2];
            const float ux = b[0] - a[0], uy = b[1] - a[1], uz = b[2] - a[2];
            const float vx = c[0] - a[0], vy = c[1] - a[1], vz = c[2] - a[2];
            const float n[3] = {uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx};
            for (int k = 0; k < 3; k++)
                for (int i = 0; i < 3; i++) normals[3 * triangles[3 * f + k] + i] -= n[i];  // y points down
        }
        for (long v = 0; v < vertices; v++) {
            float *n = normals + 3 * v;
            const float length = sqrtf(n[0] * n[0] + n[1] * n[1] + n[2] * n[2]) + 1e-9f;
            const float cosine = (n[0] * light[0] + n[1] * light[1] + n[2] * light[2]) / length;
            n[0] = albedo[v] * (ambient[v] + (1 - ambient[v]) * (cosine > 0 ? cosine : 0));
        }
        for (long i = 0; i < wide * wide; i++) depth[i] = -1e9f, shade[i] = background;
        for (long f = 0; f < faces; f++) {
            const int32_t i = triangles[3 * f], j = triangles[3 * f + 1], k = triangles[3 * f + 2];
            const float *a = p + 3 * i, *b = p + 3 * j, *c = p + 3 * k;
            const float area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]);
            if (area >= 0) continue;  // seen from behind
            const float left = fminf(a[0], fminf(b[0], c[0])), right = fmaxf(a[0], fmaxf(b[0], c[0]));
            const float top = fminf(a[1], fminf(b[1], c[1])), bottom = fmaxf(a[1], fmaxf(b[1], c[1]));
            if (right < 0 || bottom < 0 || left >= wide || top >= wide) continue;
            const int x0 = left > 0 ? (int)left : 0, x1 = right < wide - 1 ? (int)right : (int)wide - 1;
            const int y0 = top > 0 ? (int)top : 0, y1 = bottom < wide - 1 ? (int)bottom : (int)wide - 1;
            const float ax = (b[1] - c[1]) / area, ay = (c[0] - b[0]) / area;  // of the weights, along x and y
            const float bx = (c[1] - a[1]) / area, by = (a[0] - c[0]) / area;
            for (int y = y0; y <= y1; y++)
                for (int x = x0; x <= x1; x++) {
                    const float px = x + 0.5f - c[0], py = y + 0.5f - c[1];
                    const float wa = ax * px + ay * py, wb = bx * px + by * py, wc = 1 - wa - wb;
                    if (wa < 0 || wb < 0 || wc < 0) continue;
                    const float z = wa * a[2] + wb * b[2] + wc * c[2];
                    if (z <= depth[y * wide + x]) continue;
                    depth[y * wide + x] = z;
                    shade[y * wide + x] = wa * normals[3 * i] + wb * normals[3 * j] + wc * normals[3 * k];
                }
        }
        for (long y = 0; y < side; y++)
            for (long x = 0; x < side; x++) {
                const float *s = shade + 2 * y * wide + 2 * x;
                const float level = 255 * (s[0] + s[1] + s[wide] + s[wide + 1]) / 4;
                out[(t * side + y) * side + x] = level < 0 ? 0 : level > 255 ? 255 : (uint8_t)(level + 0.5f);
            }
    }
}
