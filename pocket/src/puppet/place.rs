//! What lies behind the figure.

use super::canvas::{Canvas, Path};
use super::color::{Color, hex, ramp, rgb};
use super::geometry::{Vec2, lerp, sin_cos, smoothstep, vec2};
use super::light::Light;
use super::paint::tint;
use super::random::Random;
use super::shot::{Angle, Lighting, Place, Shot};

/// Paints the place in its light.
pub(crate) fn paint(canvas: &mut Canvas, shot: &Shot, light: &Light) {
    let mut set = Set::new(canvas, shot);
    match shot.place {
        Place::White => set.plain(hex(0xf0eeea)),
        Place::Grey => set.plain(hex(0x9b9da6)),
        Place::Blue => set.plain(hex(0x6ea3d8)),
        Place::Rose => set.plain(hex(0xe6a2b4)),
        Place::Park => set.park(),
        Place::Beach => set.beach(),
        Place::Street => set.street(),
        Place::Library => set.library(),
        Place::Kitchen => set.kitchen(),
        Place::Snow => set.snow(),
        Place::Forest => set.forest(),
        Place::Office => set.office(),
        Place::Cafe => set.cafe(),
        Place::Train => set.train(),
        Place::Desert => set.desert(),
        Place::Stage => set.stage(),
    }
    let lamps = std::mem::take(&mut set.lamps);
    // Out of focus, so that the figure stands before it.
    canvas.blur(if shot.place.is_plain() { 0.0 } else { 0.0105 });
    enlighten(canvas, light, &lamps);
}

/// A light in the place: where, how large, which colour.
type Lamp = (Vec2, f32, Color);

/// Turns the place's colours into those of the lighting.
fn enlighten(canvas: &mut Canvas, light: &Light, lamps: &[Lamp]) {
    let side = light.side;
    let x = 0.5 + 0.45 * side;
    canvas.fill_all(|_, below| (light.behind(below), 1.0));
    let glow = |canvas: &mut Canvas, center: Vec2, reach: f32, color: Color, strength: f32| {
        canvas.fill_all(|p, below| {
            let near = 1.0 - smoothstep(0.0, 1.0, (p - center).length() / reach);
            (below.screen(color * (strength * near)), 1.0)
        });
    };
    match light.kind {
        Lighting::Natural => {
            canvas.fill_all(|p, below| {
                let near = 1.0 - smoothstep(0.0, 1.3, (p - vec2(x, 0.0)).length());
                (below.mix(rgb(1.0, 1.0, 0.98), 0.16 * near), 1.0)
            });
        }
        Lighting::Warm => {
            glow(canvas, vec2(x, 0.12), 0.95, rgb(1.0, 0.66, 0.30), 0.62);
        }
        Lighting::Dramatic => {
            canvas.fill_all(|p, below| {
                let toward = smoothstep(-0.55, 0.6, (p.x - 0.5) * side);
                (below * lerp(0.32, 1.5, toward), 1.0)
            });
        }
        Lighting::Backlit => {
            canvas.fill_all(|_, below| (below.mix(rgb(0.98, 0.93, 0.86), 0.30), 1.0));
            glow(
                canvas,
                vec2(0.5 + 0.06 * side, 0.34),
                0.62,
                rgb(1.0, 0.95, 0.80),
                0.95,
            );
        }
        Lighting::Night => {
            canvas.fill_all(|p, below| {
                let far = smoothstep(0.25, 0.85, (p - vec2(0.5, 0.45)).length());
                (below * lerp(1.0, 0.62, far), 1.0)
            });
            glow(canvas, vec2(x, 0.10), 0.55, rgb(0.35, 0.50, 0.95), 0.40);
        }
    }
    let strength = match light.kind {
        Lighting::Natural | Lighting::Backlit => 0.15,
        Lighting::Warm => 0.75,
        Lighting::Dramatic => 0.45,
        Lighting::Night => 0.95,
    };
    for (at, reach, color) in lamps {
        let area = Path::circle(*at, reach * 2.2);
        canvas.fill(&area, |p, below| {
            let d = (p - *at).length() / reach;
            let core = 1.0 - smoothstep(0.25, 0.55, d);
            let halo = 1.0 - smoothstep(0.0, 2.2, d);
            let lit = below.screen(*color * (strength * 0.75 * halo));
            (
                lit.mix(color.mix(rgb(1.0, 1.0, 1.0), 0.4), core * strength),
                1.0,
            )
        });
    }
}

/// A place while it is built.
struct Set<'a> {
    canvas: &'a mut Canvas,
    random: Random,
    /// Whether left and right are exchanged.
    mirrored: bool,
    aside: f32,
    /// How much lower everything lies: less when seen from above.
    shift: f32,
    lamps: Vec<Lamp>,
}

impl<'a> Set<'a> {
    fn new(canvas: &'a mut Canvas, shot: &Shot) -> Self {
        let mut random = Random::new(shot.seed, "place");
        let shift = match shot.angle {
            Angle::Above => -0.17,
            Angle::Below => 0.16,
            _ => 0.0,
        };
        Self {
            mirrored: random.chance(0.5),
            aside: random.swing(0.05),
            shift: shift + random.swing(0.025),
            random,
            canvas,
            lamps: vec![],
        }
    }

    /// A point of the place in the picture.
    fn at(&self, x: f32, y: f32) -> Vec2 {
        let x = if self.mirrored { 1.0 - x } else { x };
        vec2(x + self.aside, y + self.shift)
    }

    /// From one colour at the height `top` to another at `low`, all over.
    fn gradient(&mut self, top: f32, low: f32, colors: &[Color]) {
        let shift = self.shift;
        self.canvas.fill_all(|p, _| {
            let share = (p.y - shift - top) / (low - top);
            (ramp(colors, share), 1.0)
        });
    }

    fn area(&mut self, path: &Path, color: Color) {
        self.canvas.fill(path, tint(color, 1.0));
    }

    /// An area from one colour at the height `top` to another at `low`.
    fn shaded(&mut self, path: &Path, top: f32, low: f32, colors: [Color; 2]) {
        let shift = self.shift;
        self.canvas.fill(path, |p, _| {
            let share = ((p.y - shift - top) / (low - top)).clamp(0.0, 1.0);
            (colors[0].mix(colors[1], share), 1.0)
        });
    }

    fn glaze(&mut self, path: &Path, color: Color, alpha: f32) {
        self.canvas.fill(path, tint(color, alpha));
    }

    fn rect(&self, x0: f32, y0: f32, x1: f32, y1: f32) -> Path {
        Path::polygon(&[
            self.at(x0, y0),
            self.at(x1, y0),
            self.at(x1, y1),
            self.at(x0, y1),
        ])
    }

    fn shape(&self, points: &[(f32, f32)]) -> Vec<Vec2> {
        points.iter().map(|(x, y)| self.at(*x, *y)).collect()
    }

    fn polygon(&self, points: &[(f32, f32)]) -> Path {
        Path::polygon(&self.shape(points))
    }

    fn blob(&self, x: f32, y: f32, rx: f32, ry: f32) -> Path {
        Path::ellipse(self.at(x, y), vec2(rx, ry), 0.0)
    }

    /// Ground with a wavy upper edge.
    fn ground(&self, y: f32, swell: f32, phase: f32) -> Path {
        let mut points = vec![];
        for k in 0..=12 {
            let x = -0.3 + 1.6 * k as f32 / 12.0;
            let (sin, _) = sin_cos(x * 300.0 + phase);
            points.push(self.at(x, y + swell * sin));
        }
        points.push(self.at(1.3, 1.6));
        points.push(self.at(-0.3, 1.6));
        Path::polygon(&points)
    }

    fn cloud(&mut self, x: f32, y: f32, size: f32) {
        let path = self
            .blob(x, y, size, size * 0.34)
            .and(&self.blob(x - size * 0.35, y - size * 0.18, size * 0.42, size * 0.34))
            .and(&self.blob(x + size * 0.3, y - size * 0.22, size * 0.48, size * 0.40));
        self.glaze(&path, rgb(1.0, 1.0, 1.0), 0.85);
    }

    fn plain(&mut self, color: Color) {
        let center = self.at(0.5, 0.40);
        let bright = color.mix(rgb(1.0, 1.0, 1.0), 0.22);
        let deep = (color * 0.84).saturated(1.08);
        self.canvas.fill_all(|p, _| {
            let d = (p - center).length();
            (
                bright
                    .mix(color, smoothstep(0.0, 0.45, d))
                    .mix(deep, smoothstep(0.35, 0.85, d)),
                1.0,
            )
        });
    }

    fn park(&mut self) {
        self.gradient(0.0, 0.6, &[hex(0x7fc3f0), hex(0xd8effb)]);
        let x = self.random.range(0.1, 0.5);
        self.cloud(x, 0.14, 0.15);
        self.cloud(x + 0.55, 0.22, 0.11);
        for k in 0..9 {
            let x = -0.1 + 0.15 * k as f32 + self.random.swing(0.03);
            let size = self.random.range(0.09, 0.14);
            let path = self.blob(x, 0.56, size, size * 1.1);
            self.area(&path, hex(0x8cc48a));
        }
        let lawn = self.ground(0.60, 0.012, 20.0);
        self.shaded(&lawn, 0.6, 1.0, [hex(0x9bd566), hex(0x5fae48)]);
        let path = self.polygon(&[(0.60, 0.60), (0.66, 0.60), (1.05, 1.1), (0.55, 1.1)]);
        self.area(&path, hex(0xe8d6ad));
        for (x, y, size) in [(0.09, 0.34, 0.19), (0.93, 0.40, 0.15), (0.30, 0.47, 0.09)] {
            let (x, y) = (x + self.random.swing(0.03), y + self.random.swing(0.02));
            let trunk = self.rect(x - size * 0.10, y, x + size * 0.10, 0.66);
            self.area(&trunk, hex(0x8a5a3a));
            let crown = self
                .blob(x, y, size * 0.85, size * 0.8)
                .and(&self.blob(x - size * 0.5, y + size * 0.25, size * 0.6, size * 0.55))
                .and(&self.blob(x + size * 0.5, y + size * 0.25, size * 0.6, size * 0.55));
            self.area(&crown, hex(0x4a9a4d));
            let light = self
                .blob(x - size * 0.25, y - size * 0.25, size * 0.55, size * 0.48)
                .and(&self.blob(x + size * 0.35, y + size * 0.02, size * 0.35, size * 0.28));
            self.area(&light, hex(0x74bf5c));
        }
        for _ in 0..10 {
            let (x, y) = (self.random.unit(), self.random.range(0.68, 0.98));
            let color = self
                .random
                .pick(&[hex(0xffffff), hex(0xffd84d), hex(0xf58fb0)]);
            let path = self.blob(x, y, 0.012, 0.010);
            self.area(&path, color);
        }
    }

    fn beach(&mut self) {
        self.gradient(0.0, 0.52, &[hex(0x5cbcf0), hex(0xc9eefc)]);
        let x = self.random.range(0.5, 0.8);
        self.cloud(x, 0.12, 0.14);
        self.cloud(x - 0.45, 0.24, 0.10);
        let sea = self.rect(-0.3, 0.50, 1.3, 1.4);
        self.shaded(&sea, 0.50, 0.70, [hex(0x1f8fc4), hex(0x63d3d6)]);
        let sail = self.random.range(0.78, 0.90);
        let boat = self.polygon(&[(sail, 0.38), (sail, 0.50), (sail - 0.07, 0.50)]);
        self.area(&boat, hex(0xffffff));
        for k in 0..3 {
            let y = 0.56 + 0.045 * k as f32;
            let points = self.shape(&[
                (-0.1, y),
                (0.2, y - 0.008),
                (0.5, y),
                (0.8, y - 0.008),
                (1.1, y),
            ]);
            self.glaze(&Path::brush(&points, |_| 0.008), hex(0xffffff), 0.5);
        }
        let sand = self.ground(0.71, 0.014, 60.0);
        let foam = self.ground(0.695, 0.014, 60.0);
        self.glaze(&foam, hex(0xffffff), 0.9);
        self.shaded(&sand, 0.71, 1.0, [hex(0xf7e3b0), hex(0xe4c07c)]);
        // A palm.
        let x = 0.10 + self.random.swing(0.04);
        let trunk = self.shape(&[(x - 0.08, 0.95), (x - 0.02, 0.62), (x + 0.03, 0.30)]);
        self.area(
            &Path::brush(&trunk, |t| lerp(0.060, 0.034, t)),
            hex(0x9a6a42),
        );
        for (dx, dy, bend) in [
            (0.26, -0.02, -0.10),
            (0.21, 0.15, -0.02),
            (-0.22, 0.02, -0.10),
            (-0.16, 0.16, -0.02),
            (0.08, -0.15, -0.06),
            (-0.10, -0.13, -0.06),
        ] {
            let leaf = self.shape(&[
                (x + 0.03, 0.30),
                (x + 0.03 + dx * 0.5, 0.30 + dy * 0.5 + bend * 0.6),
                (x + 0.03 + dx, 0.30 + dy),
            ]);
            let color = if dy > 0.0 {
                hex(0x2f8a4c)
            } else {
                hex(0x49ab58)
            };
            self.area(&Path::brush(&leaf, |t| 0.055 * (1.0 - t) + 0.012), color);
        }
    }

    fn street(&mut self) {
        self.gradient(0.0, 0.7, &[hex(0x9fb6d8), hex(0xf3dcc8)]);
        let far = self.polygon(&[
            (0.30, 0.7),
            (0.30, 0.34),
            (0.40, 0.34),
            (0.40, 0.26),
            (0.50, 0.26),
            (0.50, 0.40),
            (0.60, 0.40),
            (0.60, 0.30),
            (0.72, 0.30),
            (0.72, 0.7),
        ]);
        self.area(&far, hex(0xb7b3c9));
        let road = self.rect(-0.3, 0.70, 1.3, 1.5);
        self.shaded(&road, 0.7, 1.0, [hex(0x8a8794), hex(0x5c5a68)]);
        let fronts = [
            (-0.20, 0.13, -0.2, hex(0xa85b4c)),
            (0.13, 0.34, 0.06, hex(0x6f7fa3)),
            (0.70, 0.88, 0.10, hex(0xc79a6b)),
            (0.88, 1.20, -0.2, hex(0x5d7a83)),
        ];
        for (x0, x1, y0, color) in fronts {
            let y0 = y0 + self.random.swing(0.03);
            let wall = self.rect(x0, y0, x1, 0.74);
            self.shaded(&wall, 0.0, 0.75, [color, color * 0.78]);
            let mut y = y0 + 0.05;
            while y < 0.54 {
                let count = ((x1 - x0) / 0.085) as usize;
                for k in 0..count {
                    let x = x0 + (k as f32 + 0.28) * (x1 - x0) / count as f32;
                    let lit = self.random.chance(0.5);
                    let pane = self.rect(x, y, x + 0.045, y + 0.07);
                    self.area(&pane, if lit { hex(0xffd98a) } else { hex(0x3f4c66) });
                    if lit {
                        self.lamps
                            .push((self.at(x + 0.022, y + 0.035), 0.020, hex(0xd99a48)));
                    }
                }
                y += 0.125;
            }
        }
        // An awning over a shop.
        for k in 0..6 {
            let x = 0.70 + 0.05 * k as f32;
            let cloth = self.polygon(&[
                (x, 0.56),
                (x + 0.05, 0.56),
                (x + 0.06, 0.64),
                (x + 0.01, 0.64),
            ]);
            self.area(
                &cloth,
                if k % 2 == 0 {
                    hex(0xd9473f)
                } else {
                    hex(0xf8f2e6)
                },
            );
        }
        let x = 0.20 + self.random.swing(0.03);
        let post = self.shape(&[(x, 0.86), (x, 0.22), (x + 0.03, 0.17), (x + 0.08, 0.17)]);
        self.area(&Path::brush(&post, |_| 0.016), hex(0x2c2f3c));
        let bulb = self.blob(x + 0.08, 0.19, 0.030, 0.024);
        self.area(&bulb, hex(0xfff0c0));
        self.lamps
            .push((self.at(x + 0.08, 0.19), 0.075, hex(0xffd27a)));
    }

    fn library(&mut self) {
        let wood = hex(0x7d4c2c);
        self.canvas
            .fill_all(|p, _| (wood * lerp(0.62, 0.50, p.y), 1.0));
        let colors = [
            hex(0xa8433c),
            hex(0xc98a3d),
            hex(0x3f6b7d),
            hex(0x4d7a54),
            hex(0xd8c39a),
            hex(0x6b4a78),
            hex(0x8c5a3a),
            hex(0x35506e),
        ];
        let mut y = -0.12;
        while y < 1.2 {
            let mut x = -0.12;
            while x < 1.12 {
                let width = self.random.range(0.026, 0.052);
                let high = self.random.range(0.135, 0.185);
                let color = self.random.pick(&colors) * self.random.range(0.8, 1.05);
                let lean = if self.random.chance(0.12) { 0.02 } else { 0.0 };
                let book = self.polygon(&[
                    (x + lean, y + 0.20 - high),
                    (x + width + lean - 0.005, y + 0.20 - high),
                    (x + width - 0.005, y + 0.20),
                    (x, y + 0.20),
                ]);
                self.area(&book, color);
                if self.random.chance(0.4) {
                    let band = self.rect(x, y + 0.07, x + width - 0.005, y + 0.085);
                    self.area(&band, color.mix(hex(0xf3d98c), 0.6));
                }
                x += width + lean;
            }
            let board = self.rect(-0.3, y + 0.20, 1.3, y + 0.232);
            self.shaded(&board, y + 0.2, y + 0.232, [hex(0xb07a4a), hex(0x6a3f25)]);
            y += 0.232;
        }
        for x in [0.0, 0.52, 1.04] {
            let post = self.rect(x - 0.022, -0.4, x + 0.022, 1.6);
            self.area(&post, hex(0x9a683e));
        }
    }

    fn kitchen(&mut self) {
        self.canvas
            .fill_all(|p, _| (hex(0xe4f0ea).mix(hex(0xcfe3db), p.y), 1.0));
        for k in -2..12 {
            let t = k as f32 * 0.115;
            let row = self.rect(-0.3, t, 1.3, t + 0.007);
            self.area(&row, hex(0xb9d3c9));
            let column = self.rect(t, -0.4, t + 0.007, 1.5);
            self.area(&column, hex(0xb9d3c9));
        }
        // A window with light curtains.
        let frame = self.rect(0.68, 0.02, 1.06, 0.48);
        self.area(&frame, hex(0xfaf6ee));
        let pane = self.rect(0.71, 0.05, 1.03, 0.45);
        self.shaded(&pane, 0.05, 0.45, [hex(0x8fd0f2), hex(0xdff3e6)]);
        let bar = self
            .rect(0.86, 0.05, 0.875, 0.45)
            .and(&self.rect(0.71, 0.24, 1.03, 0.255));
        self.area(&bar, hex(0xfaf6ee));
        let cloth = self.polygon(&[(0.66, 0.0), (0.80, 0.0), (0.70, 0.30), (0.66, 0.36)]);
        self.area(&cloth, hex(0xf2a65a));
        // A shelf with jars, and pans on hooks.
        let board = self.rect(-0.2, 0.25, 0.36, 0.275);
        self.area(&board, hex(0xb9824e));
        for (k, color) in [
            hex(0xd95f4b),
            hex(0xf0c04a),
            hex(0x5f9f6e),
            hex(0xe8e2d2),
            hex(0x5b86b0),
        ]
        .into_iter()
        .enumerate()
        {
            let x = -0.03 + 0.082 * k as f32;
            let high = self.random.range(0.09, 0.15);
            let jar = self.rect(x, 0.25 - high, x + 0.062, 0.25);
            self.area(&jar, color);
            let lid = self.rect(x + 0.006, 0.235 - high, x + 0.056, 0.252 - high);
            self.area(&lid, hex(0x7a5a40));
        }
        for (x, size) in [(0.06, 0.055), (0.22, 0.068)] {
            let handle = self.rect(x - 0.008, 0.275, x + 0.008, 0.40);
            self.area(&handle, hex(0x4a4f5a));
            let pan = self.blob(x, 0.40 + size, size, size);
            self.area(&pan, hex(0x5f6672));
            let shine = self.blob(x - size * 0.2, 0.39 + size, size * 0.55, size * 0.55);
            self.area(&shine, hex(0x7d8592));
        }
        let counter = self.rect(-0.3, 0.72, 1.3, 1.5);
        self.area(&counter, hex(0x9c6b43));
        let top = self.rect(-0.3, 0.70, 1.3, 0.745);
        self.area(&top, hex(0xe9dcc6));
        let pot = self.rect(0.86, 0.58, 1.02, 0.70);
        self.area(&pot, hex(0xc9423d));
        let lid = self.blob(0.94, 0.58, 0.08, 0.025);
        self.area(&lid, hex(0xa8322f));
    }

    fn snow(&mut self) {
        self.gradient(0.0, 0.6, &[hex(0x9fc6ec), hex(0xeaf4fc)]);
        let peaks = [(0.16, 0.16, 0.36), (0.82, 0.10, 0.42), (0.50, 0.28, 0.28)];
        for (x, y, wide) in peaks {
            let (x, y) = (x + self.random.swing(0.04), y + self.random.swing(0.03));
            let rock = self.polygon(&[(x - wide, 0.66), (x, y), (x + wide, 0.66)]);
            self.shaded(&rock, y, 0.62, [hex(0x8fa9cf), hex(0xc2d6ec)]);
            let cap = self.polygon(&[
                (x - wide * 0.62, y + 0.32),
                (x, y),
                (x + wide * 0.05, y + 0.16),
                (x - wide * 0.1, y + 0.22),
                (x - wide * 0.2, y + 0.38),
                (x - wide * 0.36, y + 0.30),
            ]);
            self.area(&cap, hex(0xfdfeff));
        }
        let field = self.ground(0.64, 0.016, 10.0);
        self.shaded(&field, 0.64, 1.0, [hex(0xffffff), hex(0xcfe0f2)]);
        for (x, size) in [(0.06, 0.34), (0.95, 0.30), (0.23, 0.20), (0.80, 0.17)] {
            let x = x + self.random.swing(0.02);
            let foot = 0.70 + size * 0.18;
            for k in 0..3 {
                let k = k as f32;
                let top = foot - size * (1.0 - 0.27 * k);
                let wide = size * (0.20 + 0.09 * k);
                let low = top + size * 0.42;
                let tree = self.polygon(&[(x - wide, low), (x, top), (x + wide, low)]);
                self.area(&tree, hex(0x2f6a66));
                let white = self.polygon(&[
                    (x - wide * 0.55, top + size * 0.23),
                    (x, top),
                    (x + wide * 0.55, top + size * 0.23),
                    (x, top + size * 0.16),
                ]);
                self.area(&white, hex(0xf4faff));
            }
        }
        for _ in 0..34 {
            let (x, y) = (self.random.unit(), self.random.range(-0.1, 1.1));
            let size = self.random.range(0.006, 0.014);
            let flake = self.blob(x, y, size, size);
            self.glaze(&flake, hex(0xffffff), 0.95);
        }
    }

    fn forest(&mut self) {
        self.gradient(0.0, 0.9, &[hex(0x9cc67a), hex(0x4f8f56), hex(0x2c5a3d)]);
        for (layer, color, count, wide) in [
            (0, hex(0x6fa56a), 9, 0.030),
            (1, hex(0x46754e), 7, 0.046),
            (2, hex(0x4a3a2c), 4, 0.085),
        ] {
            for k in 0..count {
                let x = (k as f32 + 0.5 + self.random.swing(0.3)) / count as f32;
                let x = if layer == 2 {
                    [0.03, 0.20, 0.82, 0.99][k] + self.random.swing(0.03)
                } else {
                    x
                };
                let w = wide * self.random.range(0.8, 1.2);
                let trunk = self.polygon(&[
                    (x - w * 0.42, -0.4),
                    (x + w * 0.42, -0.4),
                    (x + w * 0.6, 1.3),
                    (x - w * 0.6, 1.3),
                ]);
                self.area(&trunk, color);
                if layer == 2 {
                    let bark = self.rect(x - w * 0.36, -0.4, x - w * 0.12, 1.3);
                    self.area(&bark, hex(0x6b5440));
                }
            }
            if layer < 2 {
                for _ in 0..6 {
                    let (x, y) = (self.random.range(-0.1, 1.1), self.random.range(-0.1, 0.16));
                    let leaves = self.blob(x, y, 0.15, 0.09);
                    self.glaze(
                        &leaves,
                        if layer == 0 {
                            hex(0x7fb862)
                        } else {
                            hex(0x3f7a46)
                        },
                        0.9,
                    );
                }
            }
        }
        for k in 0..4 {
            let x = 0.12 + 0.26 * k as f32 + self.random.swing(0.05);
            let shaft = self.polygon(&[
                (x, -0.3),
                (x + 0.09, -0.3),
                (x - 0.16, 1.1),
                (x - 0.34, 1.1),
            ]);
            self.glaze(&shaft, hex(0xf6f3b0), 0.20);
        }
        let floor = self.ground(0.80, 0.02, 0.0);
        self.shaded(&floor, 0.8, 1.0, [hex(0x4f7f3c), hex(0x2a4a2c)]);
        for k in 0..9 {
            let x = 0.02 + 0.12 * k as f32 + self.random.swing(0.03);
            for lean in [-0.07, 0.0, 0.07] {
                let leaf = self.shape(&[
                    (x, 0.92),
                    (x + lean * 0.5, 0.80),
                    (x + lean, 0.74 + lean.abs() * 0.6),
                ]);
                self.area(
                    &Path::brush(&leaf, |t| 0.026 * (1.0 - t) + 0.004),
                    hex(0x79b04c),
                );
            }
        }
    }

    fn office(&mut self) {
        self.canvas
            .fill_all(|p, _| (hex(0xdcdde2).mix(hex(0xc4c6d0), p.y), 1.0));
        let pane = self.rect(-0.02, -0.3, 0.70, 0.62);
        self.shaded(&pane, 0.0, 0.6, [hex(0x86b9e6), hex(0xdcebf6)]);
        let mut x = -0.02;
        while x < 0.68 {
            let width = self.random.range(0.07, 0.13);
            let top = self.random.range(0.16, 0.44);
            let tone = self.random.range(0.0, 1.0);
            let tower = self.rect(x, top, x + width - 0.012, 0.62);
            let color = hex(0x6f8fb8).mix(hex(0x9fb6d0), tone);
            self.area(&tower, color);
            let mut y = top + 0.03;
            while y < 0.58 {
                let row = self.rect(x + 0.012, y, x + width - 0.024, y + 0.018);
                self.area(&row, color.mix(hex(0xffffff), 0.35));
                y += 0.048;
            }
            x += width;
        }
        for x in [-0.02, 0.22, 0.46, 0.70] {
            let bar = self.rect(x - 0.014, -0.3, x + 0.014, 0.64);
            self.area(&bar, hex(0x4a4f5c));
        }
        let sill = self.rect(-0.3, 0.62, 0.72, 0.655);
        self.area(&sill, hex(0xf2f2f4));
        // A picture on the wall, a desk with a lamp and a plant.
        let frame = self.rect(0.80, 0.12, 0.99, 0.34);
        self.area(&frame, hex(0x3d424f));
        let art = self.rect(0.82, 0.14, 0.97, 0.32);
        self.area(&art, hex(0xe8b44f));
        let disc = self.blob(0.895, 0.23, 0.05, 0.05);
        self.area(&disc, hex(0xd0563f));
        let desk = self.rect(-0.3, 0.80, 1.3, 1.5);
        self.shaded(&desk, 0.8, 1.0, [hex(0xb98a5c), hex(0x8f6640)]);
        let screen = self.rect(-0.06, 0.58, 0.20, 0.77);
        self.area(&screen, hex(0x2b2e38));
        let glow = self.rect(-0.04, 0.60, 0.18, 0.75);
        self.area(&glow, hex(0x6fc3d8));
        let foot = self.rect(0.05, 0.77, 0.09, 0.81);
        self.area(&foot, hex(0x2b2e38));
        let pot = self.polygon(&[(0.84, 0.70), (0.98, 0.70), (0.96, 0.81), (0.86, 0.81)]);
        self.area(&pot, hex(0xf0ede6));
        for (dx, dy) in [
            (-0.10, -0.14),
            (-0.04, -0.22),
            (0.03, -0.24),
            (0.09, -0.15),
            (0.0, -0.14),
        ] {
            let leaf = self.shape(&[
                (0.91, 0.70),
                (0.91 + dx * 0.4, 0.70 + dy * 0.7),
                (0.91 + dx, 0.70 + dy),
            ]);
            self.area(
                &Path::brush(&leaf, |t| 0.040 * (1.0 - t) + 0.01),
                hex(0x4b9a5a),
            );
        }
        self.lamps.push((self.at(0.07, 0.675), 0.07, hex(0x7fd6ee)));
    }

    fn cafe(&mut self) {
        let brick = hex(0xb06a4c);
        self.canvas
            .fill_all(|p, _| (brick * lerp(1.0, 0.8, p.y), 1.0));
        let mut row = 0;
        let mut y = -0.25;
        while y < 1.2 {
            let mortar = self.rect(-0.3, y, 1.3, y + 0.009);
            self.area(&mortar, hex(0xc9937a));
            let mut x = if row % 2 == 0 { -0.25 } else { -0.17 };
            while x < 1.2 {
                let joint = self.rect(x, y, x + 0.008, y + 0.072);
                self.area(&joint, hex(0xc9937a));
                if self.random.chance(0.2) {
                    let dark = self.rect(x + 0.008, y + 0.009, x + 0.16, y + 0.072);
                    self.glaze(&dark, hex(0x7a3f2c), 0.45);
                }
                x += 0.16;
            }
            y += 0.072;
            row += 1;
        }
        // A board with drawings, a shelf with cups.
        let board = self.rect(0.70, 0.28, 1.02, 0.60);
        self.area(&board, hex(0x6b4428));
        let slate = self.rect(0.72, 0.30, 1.00, 0.58);
        self.area(&slate, hex(0x2e3a38));
        for k in 0..4 {
            let y = 0.35 + 0.055 * k as f32;
            let end = 0.75 + self.random.range(0.14, 0.21);
            let points = self.shape(&[(0.75, y), (0.80, y - 0.006), (0.86, y + 0.004), (end, y)]);
            self.area(&Path::brush(&points, |_| 0.010), hex(0xe8ede6));
        }
        let shelf = self.rect(-0.2, 0.46, 0.30, 0.485);
        self.area(&shelf, hex(0x5d3a22));
        for (k, color) in [hex(0xf4efe4), hex(0x4f9a9a), hex(0xf4efe4), hex(0xe3a23f)]
            .into_iter()
            .enumerate()
        {
            let x = 0.0 + 0.075 * k as f32;
            let cup = self.rect(x, 0.39, x + 0.055, 0.46);
            self.area(&cup, color);
        }
        let counter = self.rect(-0.3, 0.76, 1.3, 1.5);
        self.shaded(&counter, 0.76, 1.0, [hex(0x6d4529), hex(0x432a1a)]);
        let top = self.rect(-0.3, 0.74, 1.3, 0.775);
        self.area(&top, hex(0xcf9c64));
        for (k, x) in [0.13, 0.50, 0.86].into_iter().enumerate() {
            let y = [0.17, 0.07, 0.14][k] + self.random.swing(0.02);
            let x = x + self.random.swing(0.02);
            let cord = self.rect(x - 0.004, -0.5, x + 0.004, y - 0.04);
            self.area(&cord, hex(0x2a1d18));
            let shade = self.polygon(&[
                (x - 0.022, y - 0.05),
                (x + 0.022, y - 0.05),
                (x + 0.080, y + 0.028),
                (x - 0.080, y + 0.028),
            ]);
            self.area(&shade, hex(0x23302f));
            let bulb = self.blob(x, y + 0.035, 0.035, 0.026);
            self.area(&bulb, hex(0xffe9a8));
            self.lamps
                .push((self.at(x, y + 0.040), 0.085, hex(0xffc45e)));
        }
    }

    fn train(&mut self) {
        self.canvas
            .fill_all(|p, _| (hex(0xe9e2d2).mix(hex(0xcfc5b2), p.y), 1.0));
        let rounded = |set: &Self, x0: f32, y0: f32, x1: f32, y1: f32, r: f32| {
            Path::polygon(&set.shape(&[
                (x0 + r, y0),
                (x1 - r, y0),
                (x1 - r * 0.3, y0 + r * 0.3),
                (x1, y0 + r),
                (x1, y1 - r),
                (x1 - r * 0.3, y1 - r * 0.3),
                (x1 - r, y1),
                (x0 + r, y1),
                (x0 + r * 0.3, y1 - r * 0.3),
                (x0, y1 - r),
                (x0, y0 + r),
                (x0 + r * 0.3, y0 + r * 0.3),
            ]))
        };
        for (x0, x1) in [(-0.42, 0.40), (0.47, 1.30)] {
            let frame = rounded(self, x0, 0.10, x1, 0.66, 0.08);
            self.area(&frame, hex(0x7f8b99));
            let glass = rounded(self, x0 + 0.022, 0.122, x1 - 0.022, 0.638, 0.07);
            let view = self.canvas.mask(&glass);
            let shift = self.shift;
            self.canvas.fill_mask(&view, |p, _| {
                let sky = ramp(&[hex(0x7fc4f0), hex(0xd9f0fa)], (p.y - shift - 0.1) / 0.3);
                (sky, 1.0)
            });
            let far = self.ground(0.40, 0.03, 40.0);
            self.canvas.fill_in(&far, &view, tint(hex(0x8fb8a8), 1.0));
            let hill = self.ground(0.46, 0.025, 170.0);
            self.canvas.fill_in(&hill, &view, tint(hex(0x9fcf63), 1.0));
            let field = self.ground(0.53, 0.012, 80.0);
            self.canvas.fill_in(&field, &view, tint(hex(0xe8cf62), 1.0));
            let near = self.ground(0.59, 0.0, 0.0);
            self.canvas.fill_in(&near, &view, tint(hex(0x5f9f4a), 1.0));
            // What rushes past is streaks.
            for _ in 0..5 {
                let (x, y) = (self.random.range(x0, x1), self.random.range(0.46, 0.63));
                let streak = self.rect(x, y, x + 0.25, y + 0.010);
                self.canvas
                    .fill_in(&streak, &view, tint(hex(0xf6f3d0), 0.4));
            }
            let gleam = self.polygon(&[
                (x0 + 0.18, 0.1),
                (x0 + 0.30, 0.1),
                (x0 + 0.10, 0.66),
                (x0 - 0.02, 0.66),
            ]);
            self.canvas
                .fill_in(&gleam, &view, tint(hex(0xffffff), 0.22));
        }
        let rack = self.rect(-0.3, -0.02, 1.3, 0.025);
        self.area(&rack, hex(0x98a2ae));
        let panel = self.rect(-0.3, 0.70, 1.3, 1.5);
        self.area(&panel, hex(0xb4aa98));
        for (x0, x1) in [(-0.10, 0.24), (0.78, 1.12)] {
            let seat = rounded(self, x0, 0.56, x1, 1.5, 0.07);
            self.shaded(&seat, 0.56, 1.0, [hex(0x2f8f8a), hex(0x1f6468)]);
            let rest = rounded(self, x0 + 0.05, 0.52, x1 - 0.05, 0.66, 0.05);
            self.area(&rest, hex(0xf0ead9));
        }
    }

    fn desert(&mut self) {
        self.gradient(0.0, 0.62, &[hex(0xf08f4f), hex(0xf9c26e), hex(0xfdecc0)]);
        let x = self.random.range(0.70, 0.84);
        let halo = self.blob(x, 0.26, 0.16, 0.16);
        self.glaze(&halo, hex(0xfff0c0), 0.45);
        let sun = self.blob(x, 0.26, 0.105, 0.105);
        self.area(&sun, hex(0xfffbe6));
        for (y, swell, phase, colors) in [
            (0.56, 0.030, 30.0, [hex(0xe9a75c), hex(0xd98d48)]),
            (0.64, 0.045, 150.0, [hex(0xd98a45), hex(0xc06f38)]),
            (0.76, 0.040, 260.0, [hex(0xe8ac5e), hex(0xbf7038)]),
        ] {
            let phase = phase + self.random.swing(40.0);
            let dune = self.ground(y, swell, phase);
            self.shaded(&dune, y - swell, y + 0.18, colors);
        }
        let x = 0.10 + self.random.swing(0.03);
        let green = hex(0x3f7d4f);
        let stem = self.shape(&[(x, 0.82), (x, 0.6), (x, 0.36)]);
        self.area(&Path::brush(&stem, |_| 0.060), green);
        let cap = self.blob(x, 0.36, 0.030, 0.03);
        self.area(&cap, green);
        for (side, y) in [(1.0, 0.58), (-1.0, 0.52)] {
            let arm = self.shape(&[
                (x, y),
                (x + side * 0.07, y),
                (x + side * 0.085, y - 0.05),
                (x + side * 0.085, y - 0.14),
            ]);
            self.area(&Path::brush(&arm, |_| 0.040), green);
            let tip = self.blob(x + side * 0.085, y - 0.14, 0.020, 0.02);
            self.area(&tip, green);
        }
        let light = self.shape(&[(x - 0.012, 0.80), (x - 0.012, 0.38)]);
        self.area(&Path::brush(&light, |_| 0.010), hex(0x6fae6a));
    }

    fn stage(&mut self) {
        let phase = self.random.range(0.0, 360.0);
        self.canvas.fill_all(|p, _| {
            let (fold, _) = sin_cos(p.x * 2700.0 + phase + 60.0 * sin_cos(p.y * 120.0).0);
            let (fine, _) = sin_cos(p.x * 5900.0 + 40.0);
            let share = 0.5 + 0.42 * fold + 0.08 * fine;
            (hex(0x6a0f1c).mix(hex(0xd83a44), share), 1.0)
        });
        let floor = self.rect(-0.3, 0.86, 1.3, 1.5);
        self.shaded(&floor, 0.86, 1.0, [hex(0xb9803f), hex(0x7a4a26)]);
        let trim = self.rect(-0.3, 0.835, 1.3, 0.862);
        self.area(&trim, hex(0xf0bd4a));
        for k in -1..5 {
            let x = 0.28 * k as f32;
            let swag = self.blob(x + 0.14, -0.02, 0.15, 0.15);
            self.area(&swag, hex(0xf0bd4a));
            let cloth = self.blob(x + 0.14, -0.03, 0.15, 0.135);
            self.shaded(&cloth, -0.05, 0.13, [hex(0xb3212f), hex(0x7d1422)]);
        }
        for (x, to) in [(0.0, 0.42), (1.0, 0.58)] {
            let beam = self.polygon(&[
                (x - 0.03, -0.2),
                (x + 0.03, -0.2),
                (to + 0.26, 1.1),
                (to - 0.26, 1.1),
            ]);
            self.glaze(&beam, hex(0xfff3cf), 0.16);
        }
    }
}
