use super::super::canvas::{Canvas, Path};
use super::super::color::{Color, rgb};
use super::super::face::LINE;
use super::super::geometry::{Vec2, Vec3, along, degrees, sin_cos, vec2, vec3};
use super::super::paint::{faint, lit};
use super::super::scene::{Ball, Scene};
use super::hair_paint;

/// Something that stands out of the hair: a tail, a knot.
#[derive(Debug)]
pub(super) struct Lock {
    /// Its middle line in space; one point is a ball.
    pub line: Vec<Vec3>,
    /// Its radius at the start, in the middle and at the end.
    pub radii: [f32; 3],
    /// Whether it is braided.
    pub braided: bool,
    /// Whether a band holds its start.
    pub band: bool,
}

impl Lock {
    /// Whether it is nearer to the viewer than the head's middle.
    pub fn is_near(&self, scene: &Scene<'_>) -> bool {
        let middle = self.line[self.line.len() / 2];
        if self.braided {
            return scene.head.turn(middle).z > -0.15;
        }
        scene.head.turn(middle).z > 0.1
    }

    fn radius(&self, t: f32) -> f32 {
        let [a, b, c] = self.radii;
        let (u, v, w) = ((1.0 - t) * (1.0 - t), 2.0 * t * (1.0 - t), t * t);
        // Through the middle radius, not just towards it.
        let middle = 2.0 * b - 0.5 * (a + c);
        u * a + v * middle + w * c
    }

    pub fn paint(&self, canvas: &mut Canvas, scene: &Scene<'_>, band: Color) {
        let hair = scene.character.hair.color;
        let light = &scene.light;
        let ink_color = hair.line();
        let scale = scene.head.scale;
        let line: Vec<Vec2> = self.line.iter().map(|p| scene.head.project(*p)).collect();
        let start = line[0];
        if line.len() == 1 {
            let radius = self.radii[0] * scale;
            let ball = Ball {
                center: start,
                radii: vec2(radius, radius),
            };
            let ink = lit(light, ball, ink_color);
            let whole = Path::circle(start, radius);
            canvas.fill(&Path::circle(start, radius + LINE * 0.8), &ink);
            canvas.fill(&whole, hair_paint(hair, light, ball, 0.9, 40.0, 300.0));
            let mask = canvas.mask(&whole);
            // Wound hair.
            for k in 0..3 {
                let turn = 0.35 + 0.3 * k as f32;
                let arc: Vec<Vec2> = (0..6)
                    .map(|j| {
                        let (sin, cos) = sin_cos(200.0 + 34.0 * j as f32 + 30.0 * k as f32);
                        start + vec2(cos, sin * 0.9) * (radius * turn) + vec2(0.0, radius * 0.25)
                    })
                    .collect();
                canvas.fill_in(&Path::stroke(&arc, LINE * 0.7), &mask, faint(&ink, 0.6));
            }
            if self.band {
                let toward = (scene.head.project(vec3(0.0, -0.5, -0.1)) - start).unit();
                let at = start + toward * radius * 0.86;
                let across = toward.turned() * radius * 0.62;
                let tie = [at - across, at + toward * (radius * 0.12), at + across];
                canvas.fill(&Path::brush(&tie, |_| 0.022), lit(light, ball, band));
            }
            return;
        }
        let ball = Ball {
            center: line[line.len() / 2],
            radii: vec2(0.32, 0.42) * (scale / 0.245),
        };
        let ink = lit(light, ball, ink_color);
        if self.braided {
            // Overlapping leaves from the end up.
            let count = 7;
            let spans = (line.len() - 1) as f32;
            let tail = along(&line, spans);
            let before = along(&line, spans - 0.3);
            let end = tail + (tail - before).unit() * (0.20 * scale);
            let tuft = Path::brush(&[before, tail, end], |t| scale * 0.24 * (1.0 - 0.7 * t));
            canvas.fill(&tuft, hair_paint(hair, light, ball, 0.2, 0.0, 300.0));
            canvas.fill(&Path::circle(tail, 0.020), lit(light, ball, band));
            for k in (0..count).rev() {
                let t = k as f32 / count as f32;
                let p = along(&line, t * spans);
                let ahead = (along(&line, (t * spans + 0.1).min(spans)) - p).unit();
                let radius = self.radius(t) * scale;
                for half in [-1.0, 1.0] {
                    let center = p + ahead.turned() * (half * radius * 0.42);
                    let tilt = degrees(ahead.y, ahead.x) - half * 32.0;
                    let leaf = |grow: f32| {
                        Path::ellipse(
                            center,
                            vec2(radius * 0.95 + grow, radius * 0.58 + grow),
                            tilt,
                        )
                    };
                    canvas.fill(&leaf(LINE * 0.55), &ink);
                    let own = Ball {
                        center,
                        radii: vec2(radius * 1.3, radius * 1.3),
                    };
                    canvas.fill(&leaf(0.0), hair_paint(hair, light, own, 0.8, 0.0, 200.0));
                }
            }
            return;
        }
        let width = |t: f32| 2.0 * self.radius(t) * scale;
        canvas.fill(
            &Path::circle(start, self.radii[0] * scale + LINE * 0.8),
            &ink,
        );
        canvas.fill(&Path::brush(&line, |t| width(t) + LINE * 1.6), &ink);
        let body = Path::brush(&line, width);
        canvas.fill(&body, hair_paint(hair, light, ball, 0.25, 0.0, 300.0));
        let mask = canvas.mask(&body);
        let steps = 12;
        let shifted = |by: f32| -> Vec<Vec2> {
            let spans = (line.len() - 1) as f32;
            (0..=steps)
                .map(|k| {
                    let t = k as f32 / steps as f32;
                    let p = along(&line, t * spans);
                    let ahead = along(&line, (t * spans + 0.05).min(spans))
                        - along(&line, (t * spans - 0.05).max(0.0));
                    p + ahead.unit().turned() * (by * self.radius(t) * scale)
                })
                .collect()
        };
        for by in [-0.45, 0.1, 0.55] {
            canvas.fill_in(
                &Path::stroke(&shifted(by), LINE * 0.7),
                &mask,
                faint(&ink, 0.5),
            );
        }
        let bright = hair.mix(rgb(1.0, 0.98, 0.94), 0.42);
        let gleam = shifted(-0.15);
        canvas.fill_in(
            &Path::stroke(&gleam[2..7], LINE * 1.5),
            &mask,
            faint(lit(light, ball, bright), 0.7),
        );
        if self.band {
            let ahead = (line[1] - line[0]).unit();
            let at = along(&line, 0.18);
            let across = ahead.turned() * (self.radius(0.04) * scale * 1.1);
            canvas.fill(
                &Path::brush(&[at - across, at + across], |_| 0.030),
                lit(light, ball, band),
            );
        }
    }
}
