use super::super::canvas::{Canvas, Mask, Path};
use super::super::color::{Color, rgb};
use super::super::face::LINE;
use super::super::geometry::{Vec2, along, degrees, sin_cos, smoothstep, vec2, vec3};
use super::super::paint::{darken, faint, lit};
use super::super::random::Random;
use super::super::scene::{Ball, Scene, around};
use super::super::surface::Surface;
use super::hair_paint;

/// One body of hair.
#[derive(Debug)]
pub(super) struct Mass {
    pub body: Surface,
    /// The edge of the opening for the face, as azimuth and height, from the picture's left to its right; below it there is no hair.
    pub edge: Vec<Vec2>,
    /// The azimuth of hanging hair's front edge; nothing for short hair.
    pub hangs: Option<f32>,
    pub color: Color,
    /// Size of waves of the outline.
    pub wave: f32,
    /// Radius of curls along the outline.
    pub curls: f32,
    /// Length of spikes along the outline.
    pub spikes: f32,
    /// How many points the lower end has.
    pub tips: usize,
    /// Lines that show how it is combed, as azimuth and height.
    pub strands: Vec<Vec<Vec2>>,
    /// How much it shines; 0 is a shadow of shaved hair.
    pub gloss: f32,
}

impl Mass {
    fn open(&self) -> impl Fn(f32) -> f32 + '_ {
        move |y| match self.hangs {
            Some(edge) => edge * smoothstep(-0.75, -0.15, y),
            None => 0.0,
        }
    }

    /// The part behind the neck, which the head shades.
    pub fn behind(&self, canvas: &mut Canvas, scene: &Scene<'_>) {
        let path = self.outline(scene, &self.ring(scene));
        let ball = self.ball(scene);
        if self.edge.is_empty() {
            // All of it lies behind the head.
            let mask = canvas.mask(&path);
            let paint = hair_paint(self.color, &scene.light, ball, self.gloss, 0.0, 500.0);
            canvas.fill_mask(&mask, paint);
            self.curl_marks(canvas, scene, &mask, ball);
            return;
        }
        let outer = (self.color * 0.84).saturated(1.08);
        let inner = (self.color * 0.45).saturated(1.1);
        let light = &scene.light;
        let neck = scene.body.project(vec3(0.0, 1.0, 0.1));
        let reach = 0.72 * scene.head.scale;
        canvas.fill(&path, |p, _| {
            let d = vec2((p.x - neck.x) / reach, (p.y - neck.y) / (1.5 * reach)).length();
            let color = inner.mix(outer, smoothstep(0.45, 1.0, d));
            (light.on(color, ball.normal(p)), 1.0)
        });
    }

    /// The inside of short hair above the forehead, which is seen from below.
    pub fn inside(&self, canvas: &mut Canvas, scene: &Scene<'_>) {
        if self.hangs.is_some() || self.gloss == 0.0 {
            return;
        }
        let low = scene.head.project(vec3(0.0, -0.5, 0.0)).y;
        let path = self.outline(scene, &self.ring(scene));
        let mut mask = canvas.mask(&path);
        let below = [(-0.6, low), (1.6, low), (1.6, 2.0), (-0.6, 2.0)].map(|(x, y)| vec2(x, y));
        mask.subtract(&canvas.mask(&Path::polygon(&below)));
        let dark = (self.color * 0.5).saturated(1.1);
        canvas.fill_mask(&mask, lit(&scene.light, self.ball(scene), dark));
    }

    /// Its head's part as a ball.
    fn ball(&self, scene: &Scene<'_>) -> Ball {
        let mut outline = self.body.outline_of(&scene.head, self.open());
        let low = scene.head.project(vec3(0.0, 0.62, 0.0)).y;
        outline.left.retain(|p| p.y < low);
        outline.right.retain(|p| p.y < low);
        around(&outline)
    }

    fn outline_points(&self, scene: &Scene<'_>) -> (Vec<Vec2>, Vec<Vec2>) {
        let outline = self.body.outline_of(&scene.head, self.open());
        let mut sides = [outline.left, outline.right];
        let wave = self.wave * scene.zoom();
        if wave > 0.0 {
            let top = scene.head.project(vec3(0.0, -0.4, 0.0)).y;
            for (k, side) in sides.iter_mut().enumerate() {
                for p in side.iter_mut() {
                    let down = (p.y - top).max(0.0);
                    let (sin, _) = sin_cos(down * 2600.0 + 90.0 * k as f32);
                    p.x += sin * wave * smoothstep(0.0, 0.25, down);
                }
            }
        }
        let [left, right] = sides;
        (left, right)
    }

    /// The edge of all of it, as if there were no opening, clockwise from the top.
    fn ring(&self, scene: &Scene<'_>) -> Vec<Vec2> {
        let (left, right) = self.outline_points(scene);
        if left.len() < 4 {
            return vec![];
        }
        let mut ring = right.clone();
        if self.hangs.is_some() && self.curls == 0.0 {
            // Tips along the lower end.
            let (from, to) = (right[right.len() - 1], left[left.len() - 1]);
            let count = self.tips * 2;
            for k in 1..count {
                let share = k as f32 / count as f32;
                let sag = 1.0 - (2.0 * share - 1.0) * (2.0 * share - 1.0);
                let down = if k % 2 == 0 { 0.030 } else { 0.010 };
                let p = from.mix(to, share);
                ring.push(p + vec2(0.0, 0.035 * sag + down));
            }
        }
        ring.extend(left.iter().rev());
        if self.spikes > 0.0 {
            return self.spiked(scene, &ring);
        }
        ring
    }

    /// The area within the ring.
    fn outline(&self, scene: &Scene<'_>, ring: &[Vec2]) -> Path {
        if ring.is_empty() {
            return Path::default();
        }
        if self.spikes > 0.0 {
            return Path::polygon(ring);
        }
        if self.curls == 0.0 {
            return Path::loop_through(ring);
        }
        let radius = self.curls * scene.head.scale;
        let mut last: Option<Vec2> = None;
        ring.iter().fold(Path::loop_through(ring), |path, p| {
            if last.is_some_and(|last| (*p - last).length() < radius * 0.9) {
                return path;
            }
            last = Some(*p);
            path.and(&Path::circle(*p, radius))
        })
    }

    /// An outline with spikes on the upper part.
    fn spiked(&self, scene: &Scene<'_>, ring: &[Vec2]) -> Vec<Vec2> {
        let low = scene.head.project(vec3(0.0, -0.52, 0.0)).y;
        let middle = scene.head.project(vec3(0.0, -0.2, 0.0));
        let scale = scene.head.scale;
        let mut random = Random::new(scene.character.seed, "spikes");
        let mut points = vec![ring[0]];
        let mut walked = 0.0;
        for pair in ring.windows(2) {
            if pair[1].y >= low {
                points.push(pair[1]);
                continue;
            }
            walked += (pair[1] - pair[0]).length();
            if walked > 0.30 * scale {
                walked = 0.0;
                let notch = points[points.len() - 1];
                let out = (notch.mix(pair[1], 0.5) - middle).unit();
                // Combed to one side.
                let lean = vec2(0.4 * scene.character.hair.side, -0.3);
                let length = self.spikes * scale * random.range(0.9, 1.5);
                points.push(notch.mix(pair[1], 0.5) + (out + lean).unit() * length);
                points.push(pair[1]);
            }
        }
        points
    }

    /// The edge of the opening as it is seen, and the area below it.
    fn opening(&self, scene: &Scene<'_>) -> (Vec<Vec2>, Path) {
        let toward = scene.head.toward_camera();
        let facing = degrees(toward.x, toward.z);
        let steps = (self.edge.len() - 1) * 4;
        let mut seen = vec![];
        let mut ends = [false, false];
        for k in 0..=steps {
            let p = along(&self.edge, k as f32 / 4.0);
            let off = (p.x - facing + 540.0).rem_euclid(360.0) - 180.0;
            // Short of a whole turn around, so that the two ends do not meet.
            if off.abs() > 112.0 || (p.x - facing).abs() > 200.0 {
                continue;
            }
            let normal = scene.head.turn(self.body.normal(p.x, p.y));
            let mut at = scene.head.project(self.body.point(p.x, p.y, 0.0));
            if normal.z < 0.0 {
                let out = vec2(normal.x, normal.y).unit();
                at = at + out * (-normal.z * 0.8 * scene.head.scale);
            }
            ends[0] |= k == 0;
            ends[1] |= k == steps;
            seen.push(at);
        }
        if seen.len() < 2 {
            return (seen, Path::default());
        }
        let mut area = seen.clone();
        let (first, last) = (seen[0], seen[seen.len() - 1]);
        let hangs = self.hangs.is_some();
        if !(hangs && ends[1]) {
            area.push(vec2(1.8, last.y));
        }
        area.push(vec2(if hangs && ends[1] { last.x } else { 1.8 }, 1.9));
        area.push(vec2(if hangs && ends[0] { first.x } else { -0.8 }, 1.9));
        if !(hangs && ends[0]) {
            area.push(vec2(-0.8, first.y));
        }
        let path = Path::polygon(&area);
        (seen, path)
    }

    pub fn paint(&self, canvas: &mut Canvas, scene: &Scene<'_>, head: &Mask) {
        if self.edge.is_empty() {
            return;
        }
        let mut ring = self.ring(scene);
        let outline = self.outline(scene, &ring);
        let whole = canvas.mask(&outline);
        let (edge, opening) = self.opening(scene);
        let open = canvas.mask(&opening);
        let mut mask = whole.clone();
        mask.subtract(&open);
        if self.curls > 0.0 {
            let radius = self.curls * scene.head.scale * 0.8;
            let mut last: Option<Vec2> = None;
            let mut scallops = Path::default();
            for p in &edge {
                if last.is_none_or(|l| (*p - l).length() > radius * 1.1) {
                    scallops = scallops.and(&Path::circle(*p, radius));
                    last = Some(*p);
                }
            }
            let mut scallops = canvas.mask(&scallops);
            scallops.intersect(&whole);
            mask.unite(&scallops);
        }

        // Its shadow on the face.
        let scale = scene.zoom();
        if self.gloss > 0.0 {
            let by = vec2(-0.006 * scene.light.side, 0.022) * scale;
            let mut shadow = canvas.soften(&mask, by, 0.012);
            shadow.intersect(head);
            canvas.fill_mask(&shadow, darken(rgb(0.70, 0.55, 0.60), 0.55));
        }

        let ball = self.ball(scene);
        let light = &scene.light;
        let color = self.color;
        let mut random = Random::new(scene.character.seed, "gloss");
        let (phase, speed) = (random.range(0.0, 360.0), random.range(500.0, 700.0));
        let paint = hair_paint(color, light, ball, self.gloss, phase, speed);
        canvas.fill_mask(&mask, &paint);

        if self.gloss > 0.0
            && let Some(streak) = scene.character.hair.streak
        {
            let from = 16.0 * scene.character.hair.side;
            let low = if self.hangs.is_some() { 2.0 } else { 0.2 };
            let points: Vec<Vec2> = [
                (0.6, -0.99),
                (1.0, -0.85),
                (1.9, -0.55),
                (3.0, -0.1),
                (4.2, 0.4),
                (4.5, low),
            ]
            .iter()
            .map(|(x, y)| scene.head.project(self.body.point(from * x, *y, 0.0)))
            .collect();
            let shine = hair_paint(streak, light, ball, self.gloss, phase, speed);
            canvas.fill_in(
                &Path::brush(&points, |t| 0.052 * scale * smoothstep(-0.1, 0.3, t)),
                &mask,
                &shine,
            );
        }

        // How it is combed.
        let dark = color.line().mix(color, 0.35);
        for strand in &self.strands {
            let visible: Vec<Vec2> = strand
                .iter()
                .filter(|p| scene.head.turn(self.body.normal(p.x, p.y)).z > 0.05)
                .map(|p| scene.head.project(self.body.point(p.x, p.y, 0.0)))
                .collect();
            if visible.len() > 1 {
                canvas.fill_in(
                    &Path::stroke(&visible, 0.0075 * scale),
                    &mask,
                    faint(lit(light, ball, dark), 0.45),
                );
            }
        }

        let ink = color.line();
        if self.curls > 0.0 {
            self.curl_marks(canvas, scene, &mask, ball);
            return;
        }
        if self.gloss > 0.0 {
            if edge.len() > 3 {
                canvas.fill_in(
                    &Path::brush(&edge, |_| LINE * 0.85),
                    &whole,
                    faint(lit(light, ball, ink), 0.9),
                );
            }
            if !ring.is_empty() {
                ring.push(ring[0]);
                let mut line = canvas.mask(&self.line(&ring));
                line.subtract(&open);
                canvas.fill_mask(&line, faint(lit(light, ball, ink), 0.9));
            }
        }
    }

    fn line(&self, points: &[Vec2]) -> Path {
        if self.spikes > 0.0 {
            // Corners stay corners.
            return points.windows(2).fold(Path::default(), |path, pair| {
                path.and(&Path::brush(pair, |_| LINE * 0.85))
            });
        }
        Path::brush(points, |_| LINE * 0.85)
    }

    /// Small arcs, dark and bright.
    fn curl_marks(&self, canvas: &mut Canvas, scene: &Scene<'_>, mask: &Mask, ball: Ball) {
        let mut random = Random::new(scene.character.seed, "curls");
        let light = &scene.light;
        let dark = self.color.line().mix(self.color, 0.25);
        let bright = self.color.mix(rgb(1.0, 0.98, 0.94), 0.35);
        let radius = self.curls * 0.62 * scene.head.scale;
        for k in 0..46 {
            let (azimuth, y) = (random.range(-180.0, 180.0), random.range(-1.25, 0.45));
            let turn = random.range(0.0, 360.0);
            let normal = scene.head.turn(self.body.normal(azimuth, y));
            if normal.z < 0.1 {
                continue;
            }
            let center = scene.head.project(self.body.point(azimuth, y, 0.0));
            let arc: Vec<Vec2> = (0..5)
                .map(|j| {
                    let (sin, cos) = sin_cos(turn + 55.0 * j as f32);
                    center + vec2(cos, sin) * radius
                })
                .collect();
            let color = if k % 3 == 0 { bright } else { dark };
            canvas.fill_in(
                &Path::stroke(&arc, LINE * 0.75),
                mask,
                faint(lit(light, ball, color), 0.5),
            );
        }
    }
}
