//! The puppet.

mod canvas;
mod character;
mod color;
mod extras;
mod face;
mod finish;
mod geometry;
mod hair;
mod light;
mod outfit;
mod place;
mod random;
mod scene;
mod shot;
mod surface;

pub use character::*;
pub use color::Color;
pub use shot::*;

use image::RgbImage;

/// draws
pub fn draw(character: &Character, shot: &Shot, size: u32) -> RgbImage {
    let mut canvas = canvas::Canvas::default();
    canvas.clear(size as usize);
    let scene = scene::Scene::new(character, shot);
    place::paint(&mut canvas, shot, &scene.light);
    canvas.figure = 1.0;
    let hair = hair::Hair::new(&scene);
    let body = outfit::Body::new(&scene);
    let head_path = canvas::Path::loop_through(&scene.outline.ring());
    let shade = canvas.mask(&head_path);
    hair.behind(&mut canvas, &scene);
    body.behind(&mut canvas, &scene);
    body.before(&mut canvas, &scene, &shade);
    hair.crest(&mut canvas, &scene);
    extras::ears(&mut canvas, &scene, false);
    let head = face::head(&mut canvas, &scene);
    face::outline(&mut canvas, &scene);
    face::features(&mut canvas, &scene, &head);
    extras::temples(&mut canvas, &scene);
    hair.before(&mut canvas, &scene, &head);
    extras::ears(&mut canvas, &scene, true);
    extras::glasses(&mut canvas, &scene);
    finish::shine(&mut canvas, &scene);
    let mut picture = RgbImage::new(size, size);
    canvas.write(&mut picture);
    picture
}
