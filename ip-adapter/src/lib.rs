//! IP-Adapter: a reference image steers Stable Diffusion, for burn.
