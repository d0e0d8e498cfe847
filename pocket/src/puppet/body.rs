//! Neck, shoulders and what is worn on them.

use super::canvas::{Canvas, Mask, Path};
use super::color::{Color, hex, rgb};
use super::face::LINE;
use super::geometry::{Vec2, smoothstep, vec2, vec3};
use super::paint::{darken, faint, lit};
use super::scene::{Ball, Scene, around};
use super::shot::{Outfit, Sex};
use super::surface::{Surface, section};

/// Neck and trunk.
#[derive(Debug)]
pub(crate) struct Body {
    neck: Surface,
    trunk: Surface,
    ball: Ball,
}

/// Clothes' main colour.
fn cloth(outfit: Outfit) -> Color {
    match outfit {
        Outfit::Hoodie => hex(0xd8413f),
        Outfit::Shirt => hex(0xf3f4f6),
        Outfit::Suit => hex(0x2d303c),
        Outfit::Denim => hex(0x4c7db8),
        Outfit::Raincoat => hex(0xf4c22b),
        Outfit::Sweater => hex(0x3c8f63),
        Outfit::Stripes => hex(0xf6f2e9),
        Outfit::Robe => hex(0x7d4ab5),
    }
}

impl Body {
    pub fn new(scene: &Scene<'_>) -> Self {
        let man = scene.character.sex == Sex::Man;
        let broad = if man { 1.10 } else { 0.93 };
        let thick = if man { 0.405 } else { 0.315 };
        let ring = |y: f32, z: f32, width: f32, deep: f32| section([y, z, width, deep, deep]);
        let neck = Surface::through(&[
            ring(0.45, 0.02, thick, thick),
            ring(0.80, -0.02, thick * 0.98, thick),
            ring(1.08, -0.10, thick * 1.04, thick * 1.02),
            ring(1.30, -0.16, thick * 1.35, thick * 1.1),
            ring(1.55, -0.18, thick * 1.9, thick * 1.2),
        ]);
        let trunk = Surface::through(&[
            ring(1.10, -0.17, 0.30 * broad, 0.30),
            ring(1.19, -0.17, 0.54 * broad, 0.38),
            ring(1.30, -0.16, 0.86 * broad, 0.44),
            ring(1.46, -0.15, 1.10 * broad, 0.48),
            ring(1.72, -0.14, 1.24 * broad, 0.53),
            ring(2.20, -0.13, 1.28 * broad, 0.58),
            ring(3.20, -0.12, 1.26 * broad, 0.60),
        ]);
        let ball = {
            let mut ball = around(&trunk.outline(&scene.body));
            ball.radii = vec2(ball.radii.x * 1.15, ball.radii.y * 1.5);
            ball.center.y += ball.radii.y * 0.35;
            ball
        };
        Self { neck, trunk, ball }
    }

    /// A point of the clothes by azimuth and height, `lift` outside of them; where that is out of sight, the nearest that is in sight.
    fn on(&self, scene: &Scene<'_>, azimuth: f32, y: f32, lift: f32) -> Vec2 {
        let azimuth = self.trunk.in_sight(&scene.body, azimuth, y);
        scene.body.project(self.trunk.point(azimuth, y, lift))
    }

    fn paint(&self, scene: &Scene<'_>, color: Color) -> impl Fn(Vec2, Color) -> (Color, f32) {
        lit(&scene.light, self.ball, color)
    }

    /// What stands behind the neck: hoods.
    pub fn behind(&self, canvas: &mut Canvas, scene: &Scene<'_>) {
        let outfit = scene.shot.outfit;
        if !matches!(outfit, Outfit::Hoodie | Outfit::Raincoat) {
            return;
        }
        let color = cloth(outfit);
        let center = scene.body.project(vec3(0.0, 1.10, -0.42));
        let scale = scene.head.scale;
        let (sin, cos) = super::geometry::sin_cos(scene.yaw * 0.62);
        let radii = vec2((0.70 * cos.abs() + 0.42 * sin.abs()) * scale, 0.34 * scale);
        canvas.fill(
            &Path::ellipse(
                center,
                vec2(radii.x + LINE * 0.6, radii.y + LINE * 0.6),
                0.0,
            ),
            self.paint(scene, color.line()),
        );
        canvas.fill(
            &Path::ellipse(center, radii, 0.0),
            self.paint(scene, color * 0.82),
        );
        canvas.fill(
            &Path::ellipse(center + vec2(0.0, 0.10 * scale), radii * 0.74, 0.0),
            self.paint(scene, color * 0.5),
        );
    }

    /// Neck, trunk and clothes.
    pub fn before(&self, canvas: &mut Canvas, scene: &Scene<'_>, head: &Mask) {
        let outfit = scene.shot.outfit;
        let main = cloth(outfit);
        let color = if outfit == Outfit::Denim {
            hex(0xf4f1ea)
        } else {
            main
        };
        let trunk = self.trunk.outline(&scene.body);
        let mut shape = trunk.ring();
        if shape.len() < 8 {
            return;
        }
        // Down to the picture's lower edge and beyond.
        let split = trunk.right.len();
        shape.insert(split, trunk.left[trunk.left.len() - 1] + vec2(0.0, 0.4));
        shape.insert(split, trunk.right[split - 1] + vec2(0.0, 0.4));
        let cloth_mask = canvas.mask(&Path::polygon(&shape));
        canvas.fill_mask(&cloth_mask, self.paint(scene, color));
        self.folds(canvas, scene, &cloth_mask, color);

        // The skin in the neckline, then the neck.
        let skin_ball = Ball {
            center: scene.body.project(vec3(0.0, 1.0, 0.0)),
            radii: vec2(0.55, 0.9) * scene.head.scale,
        };
        let skin = lit(&scene.light, skin_ball, scene.character.skin * 0.97);
        let deep = match outfit {
            Outfit::Hoodie => 1.42,
            Outfit::Shirt => 1.40,
            Outfit::Suit => 1.30,
            Outfit::Denim => 1.42,
            Outfit::Raincoat => 1.34,
            Outfit::Sweater => 1.0,
            Outfit::Stripes => 1.42,
            Outfit::Robe => 1.62,
        };
        if outfit != Outfit::Sweater {
            let neckline = self.neckline(scene, deep);
            canvas.fill_in(&Path::loop_through(&neckline), &cloth_mask, &skin);
            canvas.fill_in(
                &Path::brush(&neckline[..9], |_| LINE * 0.8),
                &cloth_mask,
                self.paint(scene, color.line()),
            );
        }
        let neck = self.neck.outline(&scene.body);
        let neck_low = scene.body.project(vec3(0.0, 1.16, 0.0)).y;
        let mut sides = neck.clone();
        sides.left.retain(|p| p.y < neck_low);
        sides.right.retain(|p| p.y < neck_low);
        let ring = sides.ring();
        if ring.len() > 6 {
            let mask = canvas.mask(&Path::polygon(&ring));
            canvas.fill_mask(&mask, &skin);
            // The head's shadow.
            let by = vec2(-0.015 * scene.light.side, 0.050);
            let mut shadow = canvas.soften(head, by, 0.014);
            shadow.intersect(&mask);
            canvas.fill_mask(&shadow, darken(rgb(0.66, 0.50, 0.55), 0.75));
            let line = self.paint(scene, scene.character.skin.line());
            for side in [&sides.left, &sides.right] {
                canvas.fill(&Path::brush(side, |_| LINE * 0.7), &line);
            }
        }
        self.dress(canvas, scene, &cloth_mask, main);

        // A shadow of the head on the clothes, the edge, and the arms.
        let mut shadow = canvas.soften(head, vec2(-0.02 * scene.light.side, 0.075), 0.022);
        shadow.intersect(&cloth_mask);
        canvas.fill_mask(&shadow, darken(rgb(0.70, 0.60, 0.68), 0.5));
        let ink = self.paint(scene, main.line());
        for side in [&trunk.left, &trunk.right] {
            canvas.fill(&Path::brush(side, |_| LINE * 0.9), &ink);
        }
    }

    /// The edge of the neckline from left to right in front (nine points), and back behind the neck.
    fn neckline(&self, scene: &Scene<'_>, deep: f32) -> Vec<Vec2> {
        let mut points = vec![];
        for k in -4..=4 {
            let share = k as f32 / 4.0;
            let y = deep - (deep - 1.14) * share * share;
            points.push(self.on(scene, share * 62.0, y, 0.01));
        }
        points.push(scene.body.project(vec3(0.26, 1.05, -0.1)));
        points.push(scene.body.project(vec3(-0.26, 1.05, -0.1)));
        points
    }

    fn folds(&self, canvas: &mut Canvas, scene: &Scene<'_>, mask: &Mask, color: Color) {
        let ink = color.line();
        let light = &scene.light;
        let ball = self.ball;
        for side in [-1.0, 1.0] {
            let arm = [
                self.on(scene, side * 66.0, 1.74, 0.0),
                self.on(scene, side * 62.0, 2.05, 0.0),
                self.on(scene, side * 60.0, 2.7, 0.0),
            ];
            canvas.fill_in(
                &Path::brush(&arm, |t| LINE * (0.3 + 0.7 * t)),
                mask,
                faint(lit(light, ball, ink), 0.7),
            );
            let sleeve = Path::polygon(&[
                self.on(scene, side * 60.0, 1.8, 0.0),
                self.on(scene, side * 90.0, 1.8, 0.4),
                self.on(scene, side * 90.0, 3.0, 0.4),
                self.on(scene, side * 58.0, 3.0, 0.0),
            ]);
            canvas.fill_in(&sleeve, mask, darken(rgb(0.88, 0.84, 0.90), 0.5));
        }
    }

    /// What makes one outfit differ from another.
    fn dress(&self, canvas: &mut Canvas, scene: &Scene<'_>, mask: &Mask, color: Color) {
        let on = |azimuth: f32, y: f32, lift: f32| self.on(scene, azimuth, y, lift);
        let ink = self.paint(scene, color.line());
        let both = [-1.0_f32, 1.0];
        let scale = scene.head.scale;
        match scene.shot.outfit {
            Outfit::Hoodie => {
                let fold = self.paint(scene, color * 0.9);
                for side in both {
                    let points = [
                        on(side * 78.0, 1.10, 0.02),
                        on(side * 52.0, 1.24, 0.05),
                        on(side * 20.0, 1.46, 0.05),
                        on(side * 2.0, 1.62, 0.03),
                    ];
                    canvas.fill(&Path::brush(&points, |t| scale * (0.24 - 0.12 * t)), &ink);
                    canvas.fill(
                        &Path::brush(&points, |t| scale * (0.24 - 0.12 * t) - LINE),
                        &fold,
                    );
                    let cord = [
                        on(side * 10.0, 1.56, 0.05),
                        on(side * 13.0, 1.72, 0.05),
                        on(side * 11.0, 1.95, 0.05),
                    ];
                    canvas.fill(
                        &Path::brush(&cord, |_| 0.012),
                        self.paint(scene, hex(0xfaf5ec)),
                    );
                }
                let pocket = [
                    on(-40.0, 2.32, 0.0),
                    on(-34.0, 2.12, 0.0),
                    on(34.0, 2.12, 0.0),
                    on(40.0, 2.32, 0.0),
                ];
                canvas.fill_in(&Path::brush(&pocket, |_| LINE * 0.7), mask, &ink);
            }
            Outfit::Shirt => {
                let seam = [on(0.0, 1.40, 0.0), on(0.0, 1.9, 0.0), on(0.0, 2.6, 0.0)];
                canvas.fill_in(
                    &Path::brush(&seam, |_| LINE * 0.6),
                    mask,
                    self.paint(scene, hex(0xa9b2c4)),
                );
                for y in [1.62, 1.92, 2.22] {
                    canvas.fill_in(
                        &Path::circle(on(3.0, y, 0.0), 0.0075),
                        mask,
                        self.paint(scene, hex(0x8d97ad)),
                    );
                }
                self.collar(canvas, scene, color, 1.0);
            }
            Outfit::Suit => {
                let shirt = Path::polygon(&[
                    on(-52.0, 1.12, 0.0),
                    on(-24.0, 1.30, 0.0),
                    on(0.0, 2.25, 0.0),
                    on(24.0, 1.30, 0.0),
                    on(52.0, 1.12, 0.0),
                    on(30.0, 1.26, 0.0),
                    on(0.0, 1.34, 0.0),
                    on(-30.0, 1.26, 0.0),
                ]);
                canvas.fill_in(&shirt, mask, self.paint(scene, hex(0xf6f6f8)));
                self.collar(canvas, scene, hex(0xf6f6f8), 0.8);
                let tie = hex(0xb3273a);
                let knot = Path::polygon(&[
                    on(-7.5, 1.33, 0.03),
                    on(7.5, 1.33, 0.03),
                    on(4.5, 1.47, 0.03),
                    on(-4.5, 1.47, 0.03),
                ]);
                let blade = Path::polygon(&[
                    on(-4.5, 1.46, 0.02),
                    on(4.5, 1.46, 0.02),
                    on(8.0, 2.4, 0.02),
                    on(-8.0, 2.4, 0.02),
                ]);
                canvas.fill_in(&blade, mask, self.paint(scene, tie));
                canvas.fill(&knot, self.paint(scene, tie * 0.8));
                let lapel = self.paint(scene, hex(0x3c4050));
                let edge = self.paint(scene, hex(0x14151c));
                for side in both {
                    let points = [
                        on(side * 66.0, 1.10, 0.01),
                        on(side * 33.0, 1.26, 0.02),
                        on(side * 2.0, 2.16, 0.02),
                        on(side * 22.0, 1.95, 0.03),
                        on(side * 47.0, 1.66, 0.03),
                        on(side * 38.0, 1.58, 0.03),
                        on(side * 56.0, 1.48, 0.02),
                    ];
                    canvas.fill(&Path::polygon(&points), &lapel);
                    let mut line = points.to_vec();
                    line.push(points[0]);
                    for pair in line.windows(2) {
                        canvas.fill(&Path::brush(pair, |_| LINE * 0.65), &edge);
                    }
                }
            }
            Outfit::Denim => {
                let jacket = self.paint(scene, color);
                let stitch = self.paint(scene, hex(0xe8a355));
                for side in both {
                    let points = [
                        on(side * 70.0, 1.06, 0.0),
                        on(side * 34.0, 1.22, 0.01),
                        on(side * 18.0, 1.7, 0.01),
                        on(side * 15.0, 3.2, 0.01),
                        on(side * 92.0, 3.2, 0.4),
                        on(side * 92.0, 1.5, 0.4),
                    ];
                    canvas.fill_in(&Path::polygon(&points), mask, &jacket);
                    canvas.fill_in(&Path::brush(&points[1..4], |_| LINE * 0.9), mask, &ink);
                    let seam = [
                        on(side * 38.0, 1.50, 0.01),
                        on(side * 23.0, 1.74, 0.01),
                        on(side * 20.0, 3.0, 0.01),
                    ];
                    canvas.fill_in(&Path::brush(&seam[1..], |_| 0.0065), mask, &stitch);
                    let yoke = [
                        on(side * 20.0, 1.78, 0.01),
                        on(side * 45.0, 1.74, 0.01),
                        on(side * 68.0, 1.70, 0.01),
                    ];
                    canvas.fill_in(&Path::brush(&yoke, |_| 0.0075), mask, &stitch);
                }
                self.collar(canvas, scene, color * 0.93, 1.35);
            }
            Outfit::Raincoat => {
                let seam = [on(0.0, 1.36, 0.0), on(0.0, 2.0, 0.0), on(0.0, 2.9, 0.0)];
                canvas.fill_in(&Path::brush(&seam, |_| LINE * 0.9), mask, &ink);
                for y in [1.66, 1.98, 2.30] {
                    canvas.fill_in(
                        &Path::circle(on(-7.0, y, 0.0), 0.0115),
                        mask,
                        self.paint(scene, hex(0x4c5a6b)),
                    );
                }
                let shine = self.paint(scene, color.mix(rgb(1.0, 1.0, 0.95), 0.55));
                for side in both {
                    let gleam = [
                        on(side * 54.0, 1.42, 0.0),
                        on(side * 66.0, 1.56, 0.0),
                        on(side * 70.0, 1.80, 0.0),
                    ];
                    canvas.fill_in(&Path::stroke(&gleam, 0.018), mask, &shine);
                }
                self.collar(canvas, scene, color * 0.97, 1.5);
            }
            Outfit::Sweater => {
                // A collar up to the chin.
                let high = 0.90;
                let neck = |azimuth: f32, y: f32, lift: f32| {
                    let azimuth = self.neck.in_sight(&scene.body, azimuth, y);
                    scene.body.project(self.neck.point(azimuth, y, lift))
                };
                let mut ring = vec![];
                for k in -4..=4 {
                    ring.push(neck(k as f32 * 24.0, high + 0.04, 0.06));
                }
                for k in (-4..=4).rev() {
                    ring.push(neck(k as f32 * 24.0, 1.28, 0.05));
                }
                let path = Path::loop_through(&ring);
                canvas.fill(&path, self.paint(scene, color * 0.94));
                let tube = canvas.mask(&path);
                for k in -4..=4 {
                    let rib = [
                        neck(k as f32 * 20.0, high, 0.06),
                        neck(k as f32 * 20.0, 1.25, 0.06),
                    ];
                    canvas.fill_in(&Path::brush(&rib, |_| 0.006), &tube, |_, below| {
                        (below * 0.72, 0.6)
                    });
                }
                canvas.fill(&Path::brush(&ring[9..], |_| LINE * 0.8), &ink);
                canvas.fill(&Path::brush(&ring[..9], |_| LINE * 0.6), &ink);
                for k in -5..=5 {
                    let x = k as f32 * 13.0;
                    let rib = [
                        on(x, 1.30 + 0.012 * (k * k) as f32, 0.0),
                        on(x * 1.05, 1.8, 0.0),
                        on(x, 2.8, 0.0),
                    ];
                    canvas.fill_in(&Path::brush(&rib, |_| 0.007), mask, |_, below| {
                        (below * 0.80, 0.55)
                    });
                }
            }
            Outfit::Stripes => {
                let navy = self.paint(scene, hex(0x2b3f6e));
                for k in 0..5 {
                    let y = 1.50 + 0.27 * k as f32;
                    let mut band = vec![];
                    for j in -4..=4 {
                        band.push(on(
                            j as f32 * 24.0,
                            y - 0.06 + 0.004 * (j * j) as f32,
                            0.12 * (j as f32 / 4.0).abs(),
                        ));
                    }
                    for j in (-4..=4).rev() {
                        band.push(on(
                            j as f32 * 24.0,
                            y + 0.075 + 0.004 * (j * j) as f32,
                            0.12 * (j as f32 / 4.0).abs(),
                        ));
                    }
                    canvas.fill_in(&Path::polygon(&band), mask, &navy);
                }
                let rim = self.neckline(scene, 1.44);
                canvas.fill_in(&Path::brush(&rim[..9], |_| 0.020), mask, &navy);
            }
            Outfit::Robe => {
                let gold = self.paint(scene, hex(0xf2c14a));
                let inner = self.paint(scene, hex(0xf7efe2));
                // The right side lies over the left.
                for (side, end) in [(1.0, 1.95), (-1.0, 2.35)] {
                    let points = [
                        on(side * 66.0, 1.10, 0.01),
                        on(side * 36.0, 1.24, 0.02),
                        on(side * 6.0, 1.62, 0.02),
                        on(-side * 22.0, end, 0.02),
                    ];
                    canvas.fill_in(&Path::brush(&points, |_| 0.060 + LINE), mask, &ink);
                    canvas.fill_in(&Path::brush(&points, |_| 0.060), mask, &gold);
                    let white: Vec<Vec2> = points
                        .iter()
                        .map(|p| *p + vec2(-side * 0.010, -0.026))
                        .collect();
                    canvas.fill_in(&Path::brush(&white, |_| 0.016), mask, &inner);
                }
                for side in both {
                    let edge = [
                        on(side * 52.0, 1.62, 0.0),
                        on(side * 47.0, 2.0, 0.0),
                        on(side * 44.0, 2.8, 0.0),
                    ];
                    canvas.fill_in(&Path::brush(&edge, |_| 0.010), mask, &gold);
                }
            }
        }
        // Cloth is darker towards the lower edge.
        canvas.fill_mask(mask, |p, below| {
            (
                below * rgb(0.86, 0.84, 0.92),
                0.5 * smoothstep(0.86, 1.02, p.y),
            )
        });
    }

    /// Two collar points.
    fn collar(&self, canvas: &mut Canvas, scene: &Scene<'_>, color: Color, size: f32) {
        let on = |azimuth: f32, y: f32, lift: f32| self.on(scene, azimuth, y, lift);
        let paint = self.paint(scene, color);
        let ink = self.paint(scene, color.line().mix(color, 0.2));
        for side in [-1.0, 1.0] {
            let points = [
                on(side * 74.0, 1.00, 0.02),
                on(side * 40.0, 1.14, 0.05),
                on(side * 3.0, 1.38, 0.05),
                on(side * 20.0, 1.38 + 0.20 * size, 0.06),
                on(side * 48.0, 1.24 + 0.14 * size, 0.06),
                on(side * 76.0, 1.14, 0.03),
            ];
            canvas.fill(&Path::polygon(&points), &paint);
            for pair in points[1..].windows(2) {
                canvas.fill(&Path::brush(pair, |_| LINE * 0.7), &ink);
            }
        }
    }
}
