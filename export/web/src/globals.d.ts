/** Inserted by the build. */
declare const __LITERT_VERSION__: string;
