//! Light along the figure's edge, and light that spills over it.

use super::canvas::Canvas;
use super::color::rgb;
use super::geometry::{lerp, smoothstep, vec2};
use super::scene::Scene;
use super::shot::Lighting;

/// The last touch of the lighting.
pub(crate) fn shine(canvas: &mut Canvas, scene: &Scene<'_>) {
    let light = &scene.light;
    let figure = canvas.figure_mask();
    for (k, side) in [-1.0, 1.0].into_iter().enumerate() {
        let strength = light.rims[k];
        if strength <= 0.0 {
            continue;
        }
        // What the figure covers, but would not if it stood a little farther from the light.
        let wide = if light.kind == Lighting::Backlit {
            0.020
        } else {
            0.017
        };
        let moved = canvas.soften(&figure, vec2(-side * wide, wide * 0.7), 0.006);
        let mut rim = figure.clone();
        rim.subtract(&moved);
        let color = light.rim;
        canvas.fill_mask(&rim, |p, below| {
            let low = 1.0 - 0.6 * smoothstep(0.6, 1.0, p.y);
            let lit = below.mix(below.screen(color), 0.5).mix(color, 0.5);
            (lit, strength * low)
        });
    }
    match light.kind {
        Lighting::Backlit => {
            // Light blooms over the edge.
            let glow = canvas.soften(&figure, vec2(0.0, 0.0), 0.026);
            let mut spill = figure.clone();
            spill.subtract(&glow);
            canvas.fill_mask(&spill, |_, below| (below.screen(rgb(1.0, 0.88, 0.66)), 0.5));
            canvas.fill_all(|p, below| {
                let near = 1.0 - smoothstep(0.0, 0.65, (p - vec2(0.5, 0.25)).length());
                (below.screen(rgb(1.0, 0.93, 0.80) * (0.10 * near)), 1.0)
            });
        }
        Lighting::Warm => {
            let from = vec2(0.5 + 0.5 * light.side, 0.1);
            canvas.fill_all(|p, below| {
                let near = 1.0 - smoothstep(0.0, 1.0, (p - from).length());
                (below.screen(rgb(1.0, 0.62, 0.28) * (0.24 * near)), 1.0)
            });
        }
        Lighting::Night => {
            canvas.fill_all(|p, below| {
                let far = smoothstep(0.35, 0.80, (p - vec2(0.5, 0.45)).length());
                (below * lerp(1.0, 0.72, far), 1.0)
            });
        }
        Lighting::Natural | Lighting::Dramatic => {}
    }
}
