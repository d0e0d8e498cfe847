//! What all parts of one picture share: who, how seen, in which light.

use super::character::Character;
use super::color::Color;
use super::geometry::{Vec2, Vec3, View, sin_cos, vec2, vec3};
use super::light::Light;
use super::random::Random;
use super::shot::{Angle, Sex, Shot};
use super::surface::{Outline, Surface, section};

/// Half a head's height in picture units, before the jitter.
const SCALE: f32 = 0.245;

/// One picture's figure.
#[derive(Debug)]
pub(crate) struct Scene<'a> {
    pub character: &'a Character,
    pub shot: &'a Shot,
    pub light: Light,
    /// How the head is seen.
    pub head: View,
    /// How the trunk is seen; its origin is the head's, so that y is counted alike.
    pub body: View,
    /// How far the face is turned to the picture's right, in degrees.
    pub yaw: f32,
    /// How far it is bowed, in degrees.
    pub pitch: f32,
    /// The head without hair, nose and ears.
    pub skull: Surface,
    /// Its edge in the picture.
    pub outline: Outline,
    /// Where the eyes look, in head units.
    pub gaze: Vec2,
    /// The head as a ball: for soft light.
    pub ball: Ball,
}

/// A ball in the picture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ball {
    pub center: Vec2,
    pub radii: Vec2,
}

impl Ball {
    /// The direction out of the ball, as the camera sees it.
    pub fn normal(&self, p: Vec2) -> Vec3 {
        let x = (p.x - self.center.x) / self.radii.x;
        let y = (p.y - self.center.y) / self.radii.y;
        let flat = x * x + y * y;
        if flat < 0.98 {
            vec3(x, y, (1.0 - flat).sqrt())
        } else {
            let shrink = 0.99 / flat.sqrt();
            vec3(x * shrink, y * shrink, 0.14)
        }
    }
}

impl<'a> Scene<'a> {
    pub fn new(character: &'a Character, shot: &'a Shot) -> Self {
        let mut random = Random::new(shot.seed, "pose");
        // How far the head is turned and bowed, how far away the camera is, and how much the turn may vary.
        let (yaw, pitch, distance, loose) = match shot.angle {
            Angle::Front => (0.0, 0.0, 6.5, 5.0),
            Angle::ThreeQuarterLeft => (-31.0, 1.0, 6.5, 4.0),
            Angle::ThreeQuarterRight => (31.0, 1.0, 6.5, 4.0),
            // Short of a right angle, so that a look can be read.
            Angle::ProfileLeft => (-74.0, 0.0, 6.5, 4.0),
            Angle::ProfileRight => (74.0, 0.0, 6.5, 4.0),
            // Near, so that what is farther is smaller.
            Angle::Above => (0.0, 31.0, 4.2, 12.0),
            Angle::Below => (0.0, -27.0, 4.2, 12.0),
        };
        let drop = match shot.angle {
            Angle::Above => 0.02,
            Angle::Below => -0.02,
            _ => 0.0,
        };
        let camera_pitch = pitch;
        let yaw = yaw + random.swing(loose);
        let pitch = pitch + random.swing(3.0);
        let roll = random.swing(4.0);
        let scale = SCALE * random.range(0.95, 1.05);
        let origin = vec2(
            0.5 + random.swing(0.025),
            0.465 + drop + random.swing(0.018),
        );
        // A turned head stays in the middle of the picture.
        let origin = origin - vec2(0.035 * sin_cos(yaw).0, 0.0);
        let head = View::new(yaw, pitch, roll, origin, scale, distance);
        let body_yaw = yaw * 0.62 + random.swing(4.0);
        let body = View::new(body_yaw, camera_pitch * 0.8, 0.0, origin, scale, distance);
        let gaze = vec2(random.swing(0.02), random.swing(0.012));
        let skull = skull(character);
        let outline = skull.outline(&head);
        let ball = around(&outline);
        Self {
            character,
            shot,
            light: Light::new(shot.lighting, shot.seed),
            head,
            body,
            yaw,
            pitch,
            skull,
            outline,
            gaze,
            ball,
        }
    }

    /// How large the head is drawn; 1 is usual.
    pub fn zoom(&self) -> f32 {
        self.head.scale / SCALE
    }

    /// A point of the face, seen from the front at `x` and `y`, in the picture.
    pub fn face(&self, x: f32, y: f32) -> Vec2 {
        self.raised(x, y, 0.0)
    }

    /// As [`Scene::face`], `lift` in front of the skin.
    pub fn raised(&self, x: f32, y: f32, lift: f32) -> Vec2 {
        self.head.project(self.skull.front(&self.head, x, y, lift))
    }

    /// A point of the head by azimuth and height, `lift` outside of it; where that is out of sight, the nearest that is in sight.
    pub fn round(&self, azimuth: f32, y: f32, lift: f32) -> Vec2 {
        let azimuth = self.skull.in_sight(&self.head, azimuth, y);
        self.head.project(self.skull.point(azimuth, y, lift))
    }

    /// The skin's colour in this light.
    pub fn skin_at(&self, p: Vec2) -> Color {
        let normal = self.ball.normal(p);
        self.light.on(self.character.skin, normal)
    }
}

/// The ball that fits an outline.
pub(crate) fn around(outline: &Outline) -> Ball {
    let mut low = vec2(f32::MAX, f32::MAX);
    let mut high = vec2(f32::MIN, f32::MIN);
    for p in outline.left.iter().chain(&outline.right) {
        low = vec2(low.x.min(p.x), low.y.min(p.y));
        high = vec2(high.x.max(p.x), high.y.max(p.y));
    }
    Ball {
        center: (low + high) * 0.5,
        radii: (high - low) * 0.5,
    }
}

/// The head without hair, nose and ears.
fn skull(character: &Character) -> Surface {
    let face = character.face;
    let man = if character.sex == Sex::Man { 1.0 } else { 0.0 };
    let wide = 0.745 * (1.0 + 0.075 * face.width);
    let jaw = face.jaw + 0.70 * man - 0.45;
    let long = 1.0 + 0.06 * face.length + 0.02 * man;
    // Below the eyes, length counts; above, all heads are alike.
    let y = |y: f32| if y > 0.0 { y * long } else { y };
    let at = |height: f32, z: f32, width: f32, front: f32, back: f32| {
        section([y(height), z, width * wide, front, back])
    };
    Surface::through(&[
        at(-1.0, 0.0, 0.0, 0.0, 0.0),
        at(-0.955, 0.0, 0.37, 0.27, 0.42),
        at(-0.80, 0.03, 0.70, 0.50, 0.72),
        at(-0.55, 0.08, 0.92, 0.63, 0.92),
        at(-0.25, 0.12, 1.0, 0.66, 0.99),
        at(0.02, 0.14, 0.985, 0.615, 0.96),
        at(0.26, 0.16, 0.955 + 0.02 * jaw, 0.61, 0.87),
        at(0.50, 0.20, 0.865 + 0.05 * jaw, 0.575, 0.68),
        at(
            0.72,
            0.27,
            0.70 + 0.10 * jaw + 0.015 * face.chin,
            0.475,
            0.50,
        ),
        at(0.88, 0.35, 0.49 + 0.10 * jaw + 0.06 * face.chin, 0.41, 0.36),
        at(0.97, 0.44, 0.27 + 0.06 * jaw + 0.07 * face.chin, 0.28, 0.24),
        at(1.0, 0.46, 0.0, 0.0, 0.0),
    ])
}
