use super::*;

fn size_of_future<A, B, C, F: Future>(_: impl FnOnce(A, B, C) -> F) -> usize {
    size_of::<F>()
}

/// Each idle connection holds one of these; what an async function takes by value is held twice.
#[test]
fn a_parked_connection_holds_less_than_700_bytes() {
    let size = size_of_future(serve::<Rc<u8>>);
    assert!(size < 700, "{size} bytes");
}
