//! What the compiler refuses in the table of a saga.

#[test]
fn a_wrong_undo_and_a_forgotten_one_do_not_compile() {
    trybuild::TestCases::new().compile_fail("tests/mistakes/*.rs");
}
