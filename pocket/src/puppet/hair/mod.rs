//! Hair: bodies around the head, cut open where the face is, and what stands out of them.

mod crest;
mod cuts;
mod lock;
mod mass;
mod shapes;

use super::canvas::{Canvas, Mask};
use super::color::{Color, rgb};
use super::geometry::{Vec2, sin_cos, smoothstep};
use super::light::Light;
use super::random::Random;
use super::scene::{Ball, Scene};
use lock::Lock;
use mass::Mass;

/// All hair of a character.
#[derive(Debug, Default)]
pub(crate) struct Hair {
    masses: Vec<Mass>,
    locks: Vec<Lock>,
    crest: bool,
    band: Color,
}

impl Hair {
    /// The hair of a scene's character.
    pub fn new(scene: &Scene<'_>) -> Self {
        let mut random = Random::new(scene.character.seed, "band");
        let band = Color::oklch(random.range(0.55, 0.8), 0.16, random.range(0.0, 360.0));
        Self {
            band,
            ..cuts::hair(scene)
        }
    }

    /// What lies behind neck and shoulders.
    pub fn behind(&self, canvas: &mut Canvas, scene: &Scene<'_>) {
        for lock in self.locks.iter().filter(|lock| !lock.is_near(scene)) {
            lock.paint(canvas, scene, self.band);
        }
        for mass in self.masses.iter().filter(|mass| mass.hangs.is_some()) {
            mass.behind(canvas, scene);
        }
    }

    /// What stands behind the head, but before the neck.
    pub fn around(&self, canvas: &mut Canvas, scene: &Scene<'_>) {
        for mass in &self.masses {
            mass.inside(canvas, scene);
        }
        if self.crest {
            crest::behind(canvas, scene);
        }
    }

    /// What lies on the head.
    pub fn before(&self, canvas: &mut Canvas, scene: &Scene<'_>, head: &Mask) {
        for mass in &self.masses {
            mass.paint(canvas, scene, head);
        }
        if self.crest {
            crest::before(canvas, scene);
        }
        for lock in self.locks.iter().filter(|lock| lock.is_near(scene)) {
            lock.paint(canvas, scene, self.band);
        }
    }
}

/// Hair with a ring of light around the crown.
fn hair_paint(
    color: Color,
    light: &Light,
    ball: Ball,
    gloss: f32,
    phase: f32,
    speed: f32,
) -> impl Fn(Vec2, Color) -> (Color, f32) + '_ {
    let bright = color.mix(rgb(1.0, 0.98, 0.94), 0.42).saturated(1.1);
    let deep = (color * 0.72).saturated(1.12);
    move |p: Vec2, _: Color| {
        let normal = ball.normal(p);
        let low = smoothstep(0.1, 1.3, (p.y - ball.center.y) / ball.radii.y);
        let base = color.mix(deep, 0.7 * low);
        let lit = light.on(base, normal);
        // The ring wobbles from strand to strand.
        let (wobble, _) = sin_cos(normal.x * speed + phase);
        let height = normal.y + 0.50 + 0.16 * normal.x * normal.x + 0.035 * wobble;
        let band = 1.0 - smoothstep(0.04, 0.17, height.abs());
        let facing = smoothstep(-0.5, 0.7, normal.x * light.toward.x + 0.3);
        let shine = light.on(bright, normal);
        (lit.mix(shine, gloss * band * (0.30 + 0.60 * facing)), 1.0)
    }
}
