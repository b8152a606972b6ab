"""What a package of Daisyport is made of, beside the program itself."""
