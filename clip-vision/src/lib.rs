//! CLIP's image encoder and its preprocessing, for burn.
