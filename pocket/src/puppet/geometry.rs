//! Points, rotations and the camera that a head is seen with.

use std::ops::{Add, Mul, Neg, Sub};

/// A point or a direction of the picture: x to the right, y down, the picture's side is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Vec2 {
    pub x: f32,
    pub y: f32,
}

/// A point or a direction in the head's own space: x to its left (the picture's right when seen from the front), y down, z out of
/// the face. Half the head's height is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Vec3 {
    pub x: f32,
    pub y: f32,
    pub z: f32,
}

pub(crate) const fn vec2(x: f32, y: f32) -> Vec2 {
    Vec2 { x, y }
}

pub(crate) const fn vec3(x: f32, y: f32, z: f32) -> Vec3 {
    Vec3 { x, y, z }
}

impl Vec2 {
    pub fn length(self) -> f32 {
        (self.x * self.x + self.y * self.y).sqrt()
    }
    /// The direction of length 1, or nothing for the zero vector.
    pub fn unit(self) -> Self {
        let length = self.length();
        if length > 1e-9 {
            self * (1.0 / length)
        } else {
            vec2(0.0, 0.0)
        }
    }
    /// A quarter turn: from right to down.
    pub fn turned(self) -> Self {
        vec2(-self.y, self.x)
    }
    pub fn mix(self, other: Self, share: f32) -> Self {
        self + (other - self) * share
    }
}

impl Vec3 {
    pub fn dot(self, other: Self) -> f32 {
        self.x * other.x + self.y * other.y + self.z * other.z
    }
    pub fn length(self) -> f32 {
        self.dot(self).sqrt()
    }
    pub fn unit(self) -> Self {
        let length = self.length();
        if length > 1e-9 {
            self * (1.0 / length)
        } else {
            vec3(0.0, 0.0, 1.0)
        }
    }
}

macro_rules! arithmetic {
    ($vector:ident, $($axis:ident),+) => {
        impl Add for $vector {
            type Output = Self;
            fn add(self, other: Self) -> Self {
                Self { $($axis: self.$axis + other.$axis),+ }
            }
        }
        impl Sub for $vector {
            type Output = Self;
            fn sub(self, other: Self) -> Self {
                Self { $($axis: self.$axis - other.$axis),+ }
            }
        }
        impl Mul<f32> for $vector {
            type Output = Self;
            fn mul(self, by: f32) -> Self {
                Self { $($axis: self.$axis * by),+ }
            }
        }
        impl Neg for $vector {
            type Output = Self;
            fn neg(self) -> Self {
                Self { $($axis: -self.$axis),+ }
            }
        }
    };
}
arithmetic!(Vec2, x, y);
arithmetic!(Vec3, x, y, z);

pub(crate) fn lerp(from: f32, to: f32, share: f32) -> f32 {
    from + (to - from) * share
}

/// 0 up to `from`, 1 from `to` on, and smooth between.
pub(crate) fn smoothstep(from: f32, to: f32, x: f32) -> f32 {
    let t = ((x - from) / (to - from)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}

/// Sine and cosine of an angle in degrees, the same on every platform.
pub(crate) fn sin_cos(degrees: f32) -> (f32, f32) {
    libm::sincosf(degrees * (std::f32::consts::PI / 180.0))
}

/// The angle in degrees of a direction with this sine and cosine.
pub(crate) fn degrees(sin: f32, cos: f32) -> f32 {
    libm::atan2f(sin, cos) * (180.0 / std::f32::consts::PI)
}

/// A point on the open Catmull-Rom curve through `points`, at `t` from 0 (the first) to `points.len() - 1` (the last).
pub(crate) fn along(points: &[Vec2], t: f32) -> Vec2 {
    let last = points.len() - 1;
    let i = (t.max(0.0) as usize).min(last.saturating_sub(1));
    let share = t - i as f32;
    let at = |k: usize| points[k.min(last)];
    let (b, c) = (at(i), at(i + 1));
    let a = if i == 0 { b * 2.0 - c } else { at(i - 1) };
    let d = if i + 2 > last { c * 2.0 - b } else { at(i + 2) };
    let (t, t2, t3) = (share, share * share, share * share * share);
    let linear = (c - a) * 0.5;
    let square = a - b * 2.5 + c * 2.0 - d * 0.5;
    let cubic = (b - c) * 1.5 + (d - a) * 0.5;
    b + linear * t + square * t2 + cubic * t3
}

/// How something is seen: turned, and projected with perspective.
#[derive(Clone, Debug)]
pub(crate) struct View {
    rotation: [Vec3; 3],
    /// Where the space's own origin comes to lie.
    pub origin: Vec2,
    /// Picture units for one unit of the space.
    pub scale: f32,
    distance: f32,
}

impl View {
    /// `yaw` turns the face to the picture's right, `pitch` bows it, `roll` tilts it clockwise; all in degrees. `distance` is the
    /// camera's from the origin.
    pub fn new(yaw: f32, pitch: f32, roll: f32, origin: Vec2, scale: f32, distance: f32) -> Self {
        let (sy, cy) = sin_cos(yaw);
        let (sp, cp) = sin_cos(pitch);
        let (sr, cr) = sin_cos(roll);
        let yawed = [vec3(cy, 0.0, sy), vec3(0.0, 1.0, 0.0), vec3(-sy, 0.0, cy)];
        let pitched = [
            yawed[0],
            yawed[1] * cp + yawed[2] * sp,
            yawed[2] * cp - yawed[1] * sp,
        ];
        let rotation = [
            pitched[0] * cr - pitched[1] * sr,
            pitched[1] * cr + pitched[0] * sr,
            pitched[2],
        ];
        Self {
            rotation,
            origin,
            scale,
            distance,
        }
    }

    /// A direction as the camera sees it: x right, y down, z towards the camera.
    pub fn turn(&self, p: Vec3) -> Vec3 {
        let [x, y, z] = self.rotation;
        vec3(x.dot(p), y.dot(p), z.dot(p))
    }

    /// Where a point comes to lie in the picture.
    pub fn project(&self, p: Vec3) -> Vec2 {
        let seen = self.turn(p);
        let near = self.distance / (self.distance - seen.z);
        self.origin + vec2(seen.x, seen.y) * (near * self.scale)
    }

    /// The camera's place in the space.
    pub fn camera(&self) -> Vec3 {
        self.rotation[2] * self.distance
    }

    /// The direction to the camera, in the space.
    pub fn toward_camera(&self) -> Vec3 {
        self.rotation[2]
    }
}
